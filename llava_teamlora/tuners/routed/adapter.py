"""A saved adapter as plain data: its configuration and its weights, without any model.

In: a folder of peft's (``adapter_config.json``, ``adapter_model.safetensors``) or a model. Out: an :class:`Adapter`,
which conversions and surgery turn into another one, and which is written as a folder that peft reads.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_teamlora.tuners.routed.config import RoutedConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_START = "base_model.model."
_END = ".weight"

Layer = dict[str, Tensor]


@dataclass(frozen=True)
class Adapter:
    """Configuration and weights of one adapter.

    Args:
        config: its peft configuration.
        weights: tensors under the keys that peft saves: the adapter's own and those of `modules_to_save`.
    """

    config: PeftConfig
    weights: Mapping[str, Tensor]

    @property
    def prefix(self) -> str:
        """What the names of the adapter's own weights begin with, such as ``teamlora_``."""
        return f"{method_name(self.config)}_"

    def layers(self) -> dict[str, Layer]:
        """Return the adapter's own weights: module path (without peft's ``base_model.model.``) -> name -> tensor."""
        layers: dict[str, Layer] = {}
        for key, weight in self.weights.items():
            path, _, name = key.removeprefix(_START).removesuffix(_END).rpartition(".")
            if name.startswith(self.prefix) and key.endswith(_END):
                layers.setdefault(path, {})[name.removeprefix(self.prefix)] = weight
        return layers

    def others(self) -> dict[str, Tensor]:
        """Return the weights that are not the adapter's own: those of `modules_to_save`."""
        return {key: weight for key, weight in self.weights.items() if f".{self.prefix}" not in key}

    def with_layers(self, config: PeftConfig, layers: Mapping[str, Layer]) -> "Adapter":
        """Return an adapter of another configuration with these layers and this one's `modules_to_save`."""
        bare = Adapter(config, {})
        own = {
            f"{_START}{path}.{bare.prefix}{name}{_END}": weight
            for path, layer in layers.items()
            for name, weight in layer.items()
        }
        return Adapter(config, own | self.others())


def routed_layers_of(adapter: Adapter, task: str) -> tuple[RoutedConfig, dict[str, Layer]]:
    """Return the configuration and layers of a routed adapter, every shape checked.

    Args:
        adapter: of any routed method.
        task: what is to be done with it, for the messages.

    Raises:
        ValueError: if the method is not routed, or the weights do not fit the configuration.
    """
    config = adapter.config
    if not isinstance(config, RoutedConfig):
        raise ValueError(
            f"{task} needs an adapter with experts (teamlora, moelora, hydralora), got {method_name(config)}"
        )
    layers = adapter.layers()
    if not layers:
        raise ValueError(f"{task}: the adapter's file holds no weight whose name begins with {adapter.prefix!r}")
    for path, layer in layers.items():
        _check_layer(config, path, layer)
    return config, layers


def shares_down_projection(config: PeftConfig) -> bool:
    """Whether all experts of this method have one A."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]  # pyright: ignore[reportArgumentType]
    return tuner.tuner_layer_cls.shared_down_projection  # pyright: ignore[reportAttributeAccessIssue]


def method_name(config: PeftConfig) -> str:
    """Return a method's name in lower case, as in METHODS and in the names of its weights."""
    return str(getattr(config.peft_type, "value", config.peft_type)).lower()


def adapter_of(model: PeftModel, name: str = "default") -> Adapter:
    """Take a copy of a model's adapter."""
    weights = {
        key: value.detach().clone() for key, value in get_peft_model_state_dict(model, adapter_name=name).items()
    }
    return Adapter(model.peft_config[name], weights)


def read_adapter(folder: str | Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        ValueError: if a file is missing or broken.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: is not an adapter folder (it holds no {name})")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        return Adapter(config, load_file(folder / WEIGHTS_FILE))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder}: its adapter cannot be read ({str(error).splitlines()[0]})") from error


def write_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter folder, each file whole or not at all, the configuration last.

    Raises:
        FileExistsError: if the folder holds an adapter already.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name}: is there already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        weights = {key: weight.detach().contiguous().clone() for key, weight in adapter.weights.items()}
        save_file(weights, Path(aside, WEIGHTS_FILE), metadata={"format": "pt"})
        adapter.config.save_pretrained(aside)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(Path(aside, name), folder / name)


def _check_layer(config: RoutedConfig, path: str, layer: Layer) -> None:
    """Raise ValueError unless the layer has the weights and shapes that its configuration says."""
    k, r = config.num_experts, config.at(path).r
    wanted = {"A": (0, r if shares_down_projection(config) else k * r), "B": (1, k * r), "router": (0, k)}
    if config.router_hidden is not None:
        wanted["router_hidden"] = (0, config.router_hidden)
    if config.train_interaction:
        wanted["interaction"] = (0, k)
    if set(layer) != set(wanted):
        raise ValueError(f"{path}: the configuration asks for weights {sorted(wanted)}, the file has {sorted(layer)}")
    for name, (dim, size) in wanted.items():
        if layer[name].dim() != 2 or layer[name].shape[dim] != size:
            raise ValueError(
                f"{path}: {name} has shape {tuple(layer[name].shape)}, but num_experts={k} and r={r} ask for {size} "
                f"{'columns' if dim else 'rows'}"
            )


def wide(weight: Tensor) -> Tensor:
    """Return the weight in float32 or wider, to compute with."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
