"""Original LLaVA folders: what they are, what they hold, and in what terms this package says it.

In: a folder or hub id whose config names ``mm_vision_tower``. That tells it apart, whatever its path and its
``model_type``, which collides with transformers' own LLaVA. Three kinds are known, as haotian-liu/LLaVA writes them:

- full: the language model with the projector in it, the tower there or named;
- lora: an adapter, ``non_lora_trainables.bin`` and a config, upon a language model or a LLaVA that lies elsewhere;
- projector: ``mm_projector.bin`` and a config, likewise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import LlamaConfig, PretrainedConfig

from llava_teamlora.constants import IM_END, IM_PATCH, IM_START
from llava_teamlora.errors import UserError
from llava_teamlora.models.pretrained import load_config

if TYPE_CHECKING:
    from llava_teamlora.models.spec import BaseSpec

ADAPTER_CONFIG = "adapter_config.json"
NON_LORA_FILE = "non_lora_trainables.bin"
PROJECTOR_FILE = "mm_projector.bin"
TOWER_FOLDER = "vision_tower"
"""Where this package puts a tower that has no other place; LLaVA itself keeps none in a folder of its own."""
_MODEL_TYPES = ("llava", "llava_llama")
_WHOLE = ("model*.safetensors", "pytorch_model*.bin", "*.index.json")
_OF_THE_WHOLE = ("architectures", "model_type", "transformers_version", "_name_or_path", "dtype", "torch_dtype")
_SUPPORTED = {"mm_patch_merge_type": ("flat", ""), "s2": (False,), "image_aspect_ratio": ("pad", "square")}

Kind = Literal["full", "lora", "projector"]


@dataclass(frozen=True)
class Original:
    """An original LLaVA folder.

    Attributes:
        name: as the user gave it.
        folder: where it lies on this machine.
        kind: which of the three.
        config: its ``config.json``.
    """

    name: str
    folder: Path
    kind: Kind
    config: dict[str, Any]

    def setting(self, name: str, default: Any = None) -> Any:
        """A field of the config; null counts as absent, as in LLaVA."""
        value = self.config.get(name)
        return default if value is None else value

    def language_config(self) -> LlamaConfig:
        """Its language model's config, without LLaVA's own fields."""
        known = LlamaConfig().to_dict().keys() | {"rope_theta", "rope_scaling"}
        own = {name: value for name, value in self.config.items() if name in known}
        return LlamaConfig(**{k: v for k, v in own.items() if k not in _OF_THE_WHOLE})

    def leave_marks(self, config: Any, tokenizer: Any) -> None:
        """Write what prompts and pictures must be like into a model's own config, which it is saved with."""
        config.image_aspect_ratio = self.setting("image_aspect_ratio", "square")
        config.mm_use_im_start_end = bool(self.setting("mm_use_im_start_end", False))
        tokenizer.model_max_length = self.setting("tokenizer_model_max_length", tokenizer.model_max_length)

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        """Tokens that its vocabulary has behind the language model's, in LLaVA's order."""
        patch = (IM_PATCH,) if self.setting("mm_use_im_patch_token", True) else ()
        return (*patch, *((IM_START, IM_END) if self.setting("mm_use_im_start_end", False) else ()))

    @property
    def projector_type(self) -> str:
        """``mm_projector_type``, or LLaVA's default."""
        return self.setting("mm_projector_type", "linear")

    @property
    def select_layer(self) -> int:
        """Hidden state of the tower whose features it was trained on."""
        layer = self.config.get("mm_vision_select_layer")
        if not isinstance(layer, int):
            raise UserError(f"{self.name}: config.json: mm_vision_select_layer is {layer!r}, not a layer's number")
        return layer

    @property
    def select_feature(self) -> str:
        """``patch`` or ``cls_patch``."""
        return self.setting("mm_vision_select_feature", "patch")

    def under(self, spec: BaseSpec) -> BaseSpec:
        """What a LLaVA like this one is put together from, before its own weights come in.

        Args:
            spec: names this folder; may say where its base and its tower lie now.

        Returns:
            Of a full folder: itself as a language model, with its tower. Of the others: their base, likewise.

        Raises:
            UserError: a base that nothing names, or settings other than those it was trained with.
        """
        self._refuse_other_settings(spec)
        own = replace(
            spec,
            vision_tower=spec.vision_tower or self._tower(),
            select_layer=self.select_layer,
            select_feature=self.select_feature,
            projector_type=self.projector_type,
            projector_weights=None,
            model_base=None,
            extra_tokens=self.extra_tokens,
        )
        if self.kind == "lora" and spec.bits != 16:
            raise UserError(
                f"{self.name}: its LoRA cannot be merged into {spec.bits}-bit weights; write it as a whole model "
                "first: llava-teamlora convert … --to transformers"
            )
        if self.kind == "full":
            if spec.model_base is not None:
                raise UserError(f"{self.name}: is a whole LLaVA; drop --model_base {spec.model_base}")
            return own
        base = replace(own, model=self._base(spec))
        if is_finished(base.model):  # it names its own tower
            return replace(base, vision_tower=spec.vision_tower, extra_tokens=())
        return base

    def _tower(self) -> str:
        """The tower that comes with the folder, else the one that its config names."""
        inside = self.folder / TOWER_FOLDER
        tower = str(inside) if inside.is_dir() else self.config["mm_vision_tower"]
        if Path(tower).is_absolute() and not Path(tower).is_dir():
            raise UserError(f"{self.name}: its vision tower {tower} is not there; say where it is with --vision_tower")
        return tower

    def _base(self, spec: BaseSpec) -> str:
        """The model that a LoRA or a projector belongs to."""
        named = self._adapter_base() if self.kind == "lora" else self.config.get("_name_or_path")
        base = spec.model_base or named
        if not base:
            raise UserError(f"{self.name}: does not say which language model it belongs to; name it with --model_base")
        if Path(base).resolve() == self.folder.resolve():
            raise UserError(f"{self.name}: cannot be its own base; name a language model with --model_base")
        if not spec.model_base and not Path(base).is_dir() and (Path(base).is_absolute() or base.startswith(".")):
            raise UserError(f"{self.name}: its base {base} is not there; say where it is with --model_base")
        return base

    def _adapter_base(self) -> str | None:
        return read_json(self.folder / ADAPTER_CONFIG).get("base_model_name_or_path")

    def _refuse_other_settings(self, spec: BaseSpec) -> None:
        for flag, said, own in (
            ("--mm_vision_select_layer", spec.select_layer, self.select_layer),
            ("--mm_vision_select_feature", spec.select_feature, self.select_feature),
            ("--mm_projector_type", spec.projector_type, self.projector_type),
        ):
            if said not in (None, own):
                raise UserError(f"{self.name}: was trained with {flag} {own}; drop {flag} {said}")


def find_original(name: str) -> Original | None:
    """The original LLaVA that a name stands for; None for anything else.

    Args:
        name: folder or hub id.

    Raises:
        UserError: an original LLaVA of a make that is not read here, or with nothing in it.
    """
    config = _config_of(name)
    if "mm_vision_tower" not in config:
        return None
    _refuse_others(name, config)
    folder = folder_of(name, download=True)
    return Original(name, folder, _kind(folder), config)


def folder_of(name: str, download: bool = False) -> Path:
    """A folder itself, or where the hub's cache keeps a model.

    Args:
        name: folder or hub id.
        download: fetch what the cache lacks.

    Raises:
        UserError: neither is there.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.model", "*.bin", "*.safetensors", "*.jinja"]
    try:
        if download:
            return Path(snapshot_download(name, allow_patterns=patterns))
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError) as error:
        raise UserError(f"{name}: neither a folder here nor a model in the hub's cache") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: missing or broken.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def stored_dtype(name: str) -> str:
    """The dtype that a folder's or hub model's config says its weights have; ``float32`` where it says nothing."""
    config = _config_of(name)
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def is_finished(name: str) -> bool:
    """Whether a base is a LLaVA, in either layout, and no mere language model."""
    config = _config_of(name)
    return "mm_vision_tower" in config or config.get("model_type") == "llava"


def _config_of(name: str) -> dict[str, Any]:
    """``config.json`` as it stands; empty where there is none, which whoever loads the base will say."""
    path = Path(name)
    try:
        if path.is_dir():
            return dict(json.loads((path / "config.json").read_text(encoding="utf-8")))
        return PretrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError, TypeError):
        return {}


def _refuse_others(name: str, config: dict[str, Any]) -> None:
    """LLaVA's successors name a tower too; what they compute is not what a LLaVA-1.5 does."""
    if config.get("model_type") not in _MODEL_TYPES:
        raise UserError(
            f"{name}: is an original LLaVA of type {config.get('model_type')!r}; those on Llama are read "
            f"({' and '.join(_MODEL_TYPES)})"
        )
    for field, known in _SUPPORTED.items():
        value = config.get(field)
        if value is not None and value not in known:
            raise UserError(
                f"{name}: config.json: {field} is {value!r}: a LLaVA-NeXT or S2 model, not a LLaVA-1.5 "
                f"({' or '.join(map(repr, known))}); it cannot be read"
            )


def _kind(folder: Path) -> Kind:
    if (folder / ADAPTER_CONFIG).is_file():
        return "lora"
    if any(path for pattern in _WHOLE for path in folder.glob(pattern)):
        return "full"
    if (folder / PROJECTOR_FILE).is_file():
        return "projector"
    raise UserError(
        f"{folder}: has the config of an original LLaVA, but neither weights (pytorch_model*.bin, model*.safetensors), "
        f"nor a LoRA ({ADAPTER_CONFIG}), nor a projector ({PROJECTOR_FILE})"
    )


def seen_through(spec: BaseSpec) -> tuple[BaseSpec, Any]:
    """What a base is, read from configs alone: an original LLaVA in the terms of what it is put together from.

    Returns:
        Spec and config of a finished LLaVA in transformers' layout, or of a language model, with its tower if it has
        one.

    Raises:
        UserError: nothing there; see :func:`find_original` and :meth:`Original.under`.
    """
    original = find_original(spec.model)
    if original is None:
        return spec, load_config(spec.model)
    under = original.under(spec)
    return (under, original.language_config()) if original.kind == "full" else seen_through(under)


def original_parts(spec: BaseSpec) -> list[str]:
    """Folders and hub ids whose weights make up a base, original or not.

    Raises:
        UserError: see :func:`find_original`; a part that nothing names.
    """
    original = find_original(spec.model)
    if original is None or original.kind == "full":
        inner = spec if original is None else original.under(spec)
        return [spec.model, *([inner.vision_tower] if inner.vision_tower else [])]
    return [spec.model, *original_parts(original.under(spec))]
