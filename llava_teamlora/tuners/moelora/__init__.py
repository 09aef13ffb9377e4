"""MoELoRA, a soft mixture of LoRA experts, as a peft method; importing this package registers it."""

from llava_teamlora.tuners.low_rank.registration import register
from llava_teamlora.tuners.moelora.config import MoeLoraConfig
from llava_teamlora.tuners.moelora.layer import MoeLoraLinear
from llava_teamlora.tuners.moelora.model import MoeLoraModel

__all__ = ["MoeLoraConfig", "MoeLoraLinear", "MoeLoraModel"]

register("moelora", config_cls=MoeLoraConfig, model_cls=MoeLoraModel)
