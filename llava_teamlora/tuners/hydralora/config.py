"""HydraLoRA's configuration."""

from dataclasses import dataclass

from llava_teamlora.tuners.routed.config import RoutedConfig


@dataclass
class HydraLoraConfig(RoutedConfig):
    """Configuration of HydraLoRA: the fields of RoutedConfig, by default without an interaction matrix."""

    method = "hydralora"

    def count_parameters(self, d_in: int, d_out: int) -> int:
        """Count the one A, B of every expert, the router, and M where it is learned."""
        return self.r * d_in + self.num_experts * self.r * d_out + self.count_routing(d_in)
