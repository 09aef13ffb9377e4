"""HydraLoRA's layer: one A of rank r that all experts share, one B for each.

Source: HydraLoRA (Tian et al., 2024), equation 5. h = x W_0 + s * sum_i phi_i (x A) B_i.
Differs from its public code: one dropout mask for all experts, and a router in float32.
"""

from llava_teamlora.tuners.routed.layer import RoutedLinear


class HydraLoraLinear(RoutedLinear):
    """A linear with HydraLoRA adapters."""

    prefix = "hydralora_"
    shared_down_projection = True
