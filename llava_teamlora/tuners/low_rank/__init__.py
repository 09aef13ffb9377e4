"""What all our low-rank methods share: configuration, layer, tuner, targets, registration with peft."""

from llava_teamlora.tuners.low_rank.config import LowRankConfig
from llava_teamlora.tuners.low_rank.layer import LowRankLinear, linear_shape
from llava_teamlora.tuners.low_rank.model import LowRankModel
from llava_teamlora.tuners.low_rank.registration import add_peft_type, register

__all__ = ["LowRankConfig", "LowRankLinear", "LowRankModel", "add_peft_type", "linear_shape", "register"]
