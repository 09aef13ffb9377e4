"""TeamLoRA (arXiv 2408.09856) as a peft method; importing this package registers it."""

from llava_teamlora.tuners.low_rank.registration import register
from llava_teamlora.tuners.teamlora.config import TeamLoraConfig
from llava_teamlora.tuners.teamlora.layer import TeamLoraLinear
from llava_teamlora.tuners.teamlora.model import TeamLoraModel

__all__ = ["TeamLoraConfig", "TeamLoraLinear", "TeamLoraModel"]

register("teamlora", config_cls=TeamLoraConfig, model_cls=TeamLoraModel)
