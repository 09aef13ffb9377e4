"""TeamLoRA's layer: one A for the team, one B for each expert, participations through the interaction matrix.

Source: the paper's section 3.3. h = x W_0 + s * sum_i omega_i split(x A)_i B_i with omega = M phi.
"""

from llava_teamlora.tuners.routed.layer import RoutedLinear


class TeamLoraLinear(RoutedLinear):
    """A linear with TeamLoRA adapters: A is split over the experts, M mixes their Shapley values."""

    prefix = "teamlora_"
