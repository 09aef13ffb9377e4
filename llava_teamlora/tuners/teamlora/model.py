"""TeamLoRA's tuner."""

from llava_teamlora.tuners.routed.model import RoutedModel
from llava_teamlora.tuners.teamlora.layer import TeamLoraLinear


class TeamLoraModel(RoutedModel):
    """A model with TeamLoRA adapters; peft makes it from a TeamLoraConfig.

    Example:
        >>> from peft import get_peft_model
        >>> from llava_teamlora import TeamLoraConfig
        >>> model = get_peft_model(model, TeamLoraConfig(r=8, num_experts=4))
    """

    prefix = "teamlora_"
    tuner_layer_cls = TeamLoraLinear
