"""Experts weighted by hand, to see what each of them does: 0 switches one off, 2 doubles what it adds.

In: a model with routed layers, a gain for each expert. Out: the same model, whose participations omega (equation 12)
are multiplied by the gains, omega_i' = g_i omega_i, until they are taken away. Nothing is trained or saved of it.
"""

import math
from collections.abc import Sequence

from torch import nn

from llava_teamlora.tuners.routed.layer import routed_layers


def steer_experts(model: nn.Module, gains: Sequence[float] | None) -> None:
    """Weight the experts of all routed layers by hand from now on; an adapter set later must have as many experts.

    Args:
        model: with routed layers.
        gains: one for each expert, ``[k]``, 0 or above; None takes them away.

    Raises:
        ValueError: if the gains are not as many as the experts, or one of them is not a finite number of 0 or above.
    """
    layers = routed_layers(model)
    if gains is not None:
        counts = {layer.adapter_configs[name].num_experts for layer in layers for name in layer.active_adapters}
        if counts != {len(gains)}:
            have = ", ".join(map(str, sorted(counts))) or "no"
            raise ValueError(f"{len(gains)} gains for a model whose layers have {have} experts")
        if not all(math.isfinite(gain) and gain >= 0 for gain in gains):
            raise ValueError(f"gains must be finite and 0 or above, got {list(gains)}")
    for layer in layers:
        layer.expert_gains = None if gains is None else tuple(map(float, gains))
