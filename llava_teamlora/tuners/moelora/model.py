"""MoELoRA's tuner."""

from llava_teamlora.tuners.moelora.layer import MoeLoraLinear
from llava_teamlora.tuners.routed.model import RoutedModel


class MoeLoraModel(RoutedModel):
    """A model with MoELoRA adapters; peft makes it from a MoeLoraConfig."""

    prefix = "moelora_"
    tuner_layer_cls = MoeLoraLinear
