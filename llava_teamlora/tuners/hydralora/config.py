"""HydraLoRA's configuration."""

from dataclasses import dataclass

from llava_teamlora.tuners.low_rank.registration import add_peft_type
from llava_teamlora.tuners.routed.config import RoutedConfig


@dataclass
class HydraLoraConfig(RoutedConfig):
    """Configuration of HydraLoRA: the fields of RoutedConfig, by default without an interaction matrix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type("HYDRALORA")

    def count_parameters(self, d_in: int, d_out: int) -> int:
        """Count the one A, B of every expert, the router, and M where it is learned."""
        return self.r * d_in + self.num_experts * self.r * d_out + self.count_routing(d_in)
