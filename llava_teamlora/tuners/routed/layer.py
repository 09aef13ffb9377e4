"""The layer of every routed method: base output plus a low-rank update whose experts are weighted token by token.

For each active adapter it adds scale * sum_i omega_i z_i B_i, where z_i is expert i's slice of x A (or x A itself when
all experts share one), omega = M phi, and phi the softmax of the router's logits. Where it can, custom autograd
computes the whole layer, or else the update; choice.py says where.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llava_teamlora.tuners.low_rank.config import check_choice
from llava_teamlora.tuners.low_rank.layer import init_projection
from llava_teamlora.tuners.low_rank.lost import DownProjection
from llava_teamlora.tuners.routed.choice import can_fuse, fused_layer, fused_update
from llava_teamlora.tuners.routed.config import IMPLS, RoutedConfig
from llava_teamlora.tuners.routed.fused_linear import fused_linear
from llava_teamlora.tuners.routed.packed import PackableLinear
from llava_teamlora.tuners.routed.product import routed_low_rank
from llava_teamlora.tuners.routed.router import WideLinear, init_interaction, router_logits, shapley_values


@dataclass(frozen=True)
class RoutingRecord:
    """What the router of one layer said in one forward pass.

    Args:
        layer: the layer.
        adapter: name of the adapter.
        logits: router logits, ``[..., k]``, with their gradient.
        participation: omega, the weight each expert got, ``[..., k]``, without one: gradient checkpointing wants the
            same tensors saved whether somebody listens or not.
    """

    layer: "RoutedLinear"
    adapter: str
    logits: Tensor
    participation: Tensor


class RoutedLinear(PackableLinear):
    """A linear with routed low-rank adapters. Weights of an adapter, each without bias:

    - A ``[k * r, D_in]``, expert i owns rows ``i * r`` to ``(i + 1) * r``; ``[r, D_in]`` where all experts share it.
    - B ``[D_out, k * r]``: expert i owns the columns of the same numbers.
    - router ``[k, D_in]``, or router_hidden ``[H, D_in]`` and router ``[k, H]``.
    - interaction ``[k, k]``, M in the paper; absent when it is fixed at the identity.
    """

    weight_names: ClassVar[tuple[str, ...]] = ("A", "B", "router", "router_hidden", "interaction")
    shared_down_projection: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Who listens to the router: lists that get a RoutingRecord each pass. Empty costs nothing.
        self.routing_sinks: tuple[list[RoutingRecord], ...] = ()
        # What steering.py multiplies the experts' participations by, one number each.
        self.expert_gains: tuple[float, ...] | None = None

    def build_weights(self, config: RoutedConfig) -> dict[str, nn.Module]:
        """Return a new adapter's weights; B starts at zero, so that the output is the base model's."""
        k, width = config.num_experts, config.num_experts * config.r
        hidden = config.router_hidden
        weights: dict[str, nn.Linear] = {
            "A": DownProjection(self.in_features, config.r if self.shared_down_projection else width),
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
        """Return omega = M phi (equation 12), ``[..., k]``, times the gains that were set by hand."""
        interaction = self.weight_module("interaction", adapter)
        omega = shapley if interaction is None else interaction(shapley)
        return omega if self.expert_gains is None else omega * omega.new_tensor(self.expert_gains)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base layer's output plus the update of each active adapter, in the base output's dtype.

        Args:
            x: ``[..., D_in]``.

        Returns:
            ``[..., D_out]``.
        """
        if self.packed is not None and not (args or kwargs):
            result = self.packed.run(self, x)
            if result is not None:
                return result
        whole = fused_layer(self, x.device, x.dtype) if not (args or kwargs) and can_fuse(x) else None
        if whole is None:
            return super().forward(x, *args, **kwargs)
        adapter, weights, sizes = whole.update
        y, logits = fused_linear(x.to(whole.dtype), whole.weight, whole.bias, weights, sizes)
        self.tell(adapter, logits)
        return y

    def update(self, adapter: str, x: Tensor) -> Tensor:
        """Return what one adapter adds to the output, ``[..., D_out]``."""
        fused = fused_update(self, adapter, x.device, x.dtype) if can_fuse(x) else None
        if fused is None:
            return self._reference_update(adapter, x)
        y, logits = fused_linear(x, None, None, fused.weights, fused.sizes)
        self.tell(adapter, logits)
        return y

    def tell(self, adapter: str, logits: Tensor) -> None:
        """Tell those who listen what an adapter's router said, its logits ``[..., k]``."""
        if not self.routing_sinks:
            return
        with torch.no_grad():
            participation = self.participation(adapter, shapley_values(logits))  # [..., k]
        for sink in self.routing_sinks:
            sink.append(RoutingRecord(self, adapter, logits, participation))

    def _reference_update(self, adapter: str, x: Tensor) -> Tensor:
        a = self.linear("A", adapter)
        x = self._cast_input_dtype(x, a.weight.dtype)
        logits = router_logits(x, self.weight_module("router_hidden", adapter), self.linear("router", adapter))
        self.tell(adapter, logits)
        participation = self.participation(adapter, shapley_values(logits))  # [..., k]
        r, scale = self.adapter_configs[adapter].r, self.scaling[adapter]
        b = self.linear("B", adapter)
        return routed_low_rank(self.adapter_dropout[adapter](x), a, b, participation, r, scale)


def routed_layers(model: nn.Module) -> list[RoutedLinear]:
    """Return the routed layers of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, RoutedLinear)]


def set_impl(model: nn.Module, impl: str) -> None:
    """Set which form computes a model's routed adapters, all of them: RoutedConfig's `impl`.

    Raises:
        ValueError: if there is no such form.
    """
    check_choice("impl", impl, IMPLS)
    for layer in routed_layers(model):
        layer.unpack()
        for config in layer.adapter_configs.values():
            config.impl = impl
