"""MoSLoRA's tuner."""

from llava_teamlora.tuners.low_rank.model import LowRankModel
from llava_teamlora.tuners.moslora.layer import MosLoraLinear


class MosLoraModel(LowRankModel):
    """A model with MoSLoRA adapters; peft makes it from a MosLoraConfig."""

    prefix = "moslora_"
    tuner_layer_cls = MosLoraLinear
