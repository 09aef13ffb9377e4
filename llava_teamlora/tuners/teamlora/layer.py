"""TeamLoRA's layer: one A for the team, one B for each expert, participations through the interaction matrix.

Source: the paper's section 3.3. h = x W_0 + s * sum_i omega_i split(x A)_i B_i with omega = M phi.
"""

from torch import Tensor, nn

from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.layer import RoutedLinear
from llava_teamlora.tuners.routed.router import WideLinear, init_interaction, init_projection
from llava_teamlora.tuners.teamlora.config import TeamLoraConfig


class TeamLoraLinear(RoutedLinear):
    """A linear with TeamLoRA adapters. Weights of an adapter, each without bias:

    - A ``[k * r, D_in]``, B ``[D_out, k * r]``: expert i owns rows, and columns, ``i * r`` to ``(i + 1) * r``.
    - router ``[k, D_in]``, or router_hidden ``[H, D_in]`` and router ``[k, H]``.
    - interaction ``[k, k]``, M in the paper; absent when it is fixed at the identity.
    """

    prefix = "teamlora_"
    weight_names = ("A", "B", "router", "router_hidden", "interaction")

    def build_weights(self, config: RoutedConfig) -> dict[str, nn.Module]:
        """Return a new adapter's weights; B starts at zero, so that the output is the base model's."""
        assert isinstance(config, TeamLoraConfig)
        k, width = config.num_experts, config.num_experts * config.r
        hidden = config.router_hidden
        weights: dict[str, nn.Linear] = {
            "A": nn.Linear(self.in_features, width, bias=False),
            "B": nn.Linear(width, self.out_features, bias=False),
            "router": WideLinear(self.in_features if hidden is None else hidden, k),
        }
        if hidden is not None:
            weights["router_hidden"] = WideLinear(self.in_features, hidden)
        for linear in weights.values():
            init_projection(linear.weight)
        if config.train_interaction:
            weights["interaction"] = WideLinear(k, k)
            init_interaction(weights["interaction"].weight, config.interaction_init)
        if config.init_weights:
            nn.init.zeros_(weights["B"].weight)
        elif config.train_interaction:
            nn.init.uniform_(weights["interaction"].weight)
        return dict(weights)

    def participation(self, adapter: str, shapley: Tensor) -> Tensor:
        """Return omega = M phi (equation 12), ``[..., k]``."""
        interaction = self.weight_module("interaction", adapter)
        return shapley if interaction is None else interaction(shapley)
