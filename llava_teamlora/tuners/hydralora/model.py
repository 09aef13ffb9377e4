"""HydraLoRA's tuner."""

from llava_teamlora.tuners.hydralora.layer import HydraLoraLinear
from llava_teamlora.tuners.routed.model import RoutedModel


class HydraLoraModel(RoutedModel):
    """A model with HydraLoRA adapters; peft makes it from a HydraLoraConfig."""

    prefix = "hydralora_"
    tuner_layer_cls = HydraLoraLinear
