"""HydraLoRA (arXiv 2404.19245) as a peft method; importing this package registers it."""

from llava_teamlora.tuners.hydralora.config import HydraLoraConfig
from llava_teamlora.tuners.hydralora.layer import HydraLoraLinear
from llava_teamlora.tuners.hydralora.model import HydraLoraModel
from llava_teamlora.tuners.low_rank.registration import register

__all__ = ["HydraLoraConfig", "HydraLoraLinear", "HydraLoraModel"]

register("hydralora", config_cls=HydraLoraConfig, model_cls=HydraLoraModel)
