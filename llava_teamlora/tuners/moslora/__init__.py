"""MoSLoRA (arXiv 2406.11909) as a peft method; importing this package registers it."""

from llava_teamlora.tuners.low_rank.registration import register
from llava_teamlora.tuners.moslora.config import MosLoraConfig
from llava_teamlora.tuners.moslora.layer import MosLoraLinear
from llava_teamlora.tuners.moslora.model import MosLoraModel

__all__ = ["MosLoraConfig", "MosLoraLinear", "MosLoraModel"]

register("moslora", config_cls=MosLoraConfig, model_cls=MosLoraModel)
