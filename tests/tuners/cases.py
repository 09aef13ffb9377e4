"""Every method of METHODS on every tiny model: what the matrix tests are parametrised over."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from tiny_models import IMAGE_TOKEN, make_llama, make_llava
from torch import Tensor

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.tuners import METHODS, AdapterOptions, Method
from llava_teamlora.tuners.low_rank import LowRankLinear, LowRankModel

_MODELS: dict[str, Callable[[], Any]] = {"llama": make_llama, "llava": make_llava}
_SMALL = {"r": 2, "num_experts": 3, "target_r": 1, "total_step": 100, "num_virtual_tokens": 3}


@dataclass(frozen=True, repr=False)
class Case:
    """One method on one model. What a method promises is read off its configuration and tuner, not off its name."""

    method: Method
    model: str

    def __repr__(self) -> str:
        return f"{self.method.name}-{self.model}"

    def base(self) -> Any:
        """The model without an adapter, the same each time."""
        return _MODELS[self.model]()

    def config(self, alone: bool = False) -> Any:
        """A small configuration, None if the method has no adapter; in a LLaVA with the projector, unless `alone`."""
        said = {name: value for name, value in _SMALL.items() if name in self.method.options}
        if self.method.options == ("modules_to_save",) or not (alone or self.model == "llama"):
            said["modules_to_save"] = (PROJECTOR if self.model == "llava" else "lm_head",)
        config = self.method.build(AdapterOptions(**said), self.model)
        if config is not None:
            config.task_type = "CAUSAL_LM"
        return config

    def fresh(self, base: Any = None, alone: bool = False) -> PeftModel:
        """A model with an adapter as it is before training."""
        torch.manual_seed(1)
        model = get_peft_model(self.base() if base is None else base, self.config(alone))
        assert isinstance(model, PeftModel)
        return model.eval()

    def random(self, base: Any = None, alone: bool = False) -> PeftModel:
        """A model whose adapter is random in every trained weight, so that each has an effect."""
        return randomise(self.fresh(base, alone))

    def tuner(self) -> type:
        """peft's class for the method."""
        return PEFT_TYPE_TO_TUNER_MAPPING[self.config().peft_type]

    def can_merge(self) -> bool:
        """Whether its adapter may be merged into the base; peft's own all may."""
        layer = getattr(self.tuner(), "tuner_layer_cls", None)
        return layer.can_merge() if isinstance(layer, type) and issubclass(layer, LowRankLinear) else True

    def inputs(self) -> dict[str, Tensor]:
        """Two sequences of seven tokens, with a picture each where the model sees."""
        generator = torch.Generator().manual_seed(2)
        ids = torch.randint(3, IMAGE_TOKEN, (2, 7), generator=generator)
        if self.model == "llama":
            return {"input_ids": ids}
        ids[:, 1:5] = IMAGE_TOKEN
        return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}


def randomise(model: PeftModel) -> PeftModel:
    """Fill what is trained with noise, the same for the same name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # On a half-precision base peft's dtype cast makes AdaLoRA's count of its ranks trainable.
            if parameter.requires_grad and "ranknum" not in name:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return model


_ALL = [Case(method, model) for method in METHODS.values() for model in _MODELS]
CASES = [case for case in _ALL if case.config() is not None]  # full fine-tuning has no adapter to try
LAYERED = [case for case in CASES if not case.config().is_prompt_learning]
OURS = [case for case in LAYERED if issubclass(case.tuner(), LowRankModel)]
