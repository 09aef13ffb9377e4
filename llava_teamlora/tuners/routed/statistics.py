"""What routing telemetry counts: a record's features, summed over positions, and the statistics of such sums.

In: a RoutingRecord of one pass. Out: rows that may be added up over passes and processes, and LayerRouting, the
statistics of one layer and adapter, group by group.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_teamlora.tuners.routed.layer import RoutingRecord


@dataclass(frozen=True)
class GroupRouting:
    """How one layer routed the positions of one group. A number is nan if the router's values were not finite.

    Args:
        count: positions, > 0.
        participation_mean: mean of omega of each expert, ``[k]``.
        participation_std: its standard deviation over the positions, ``[k]``, >= 0.
        shapley_mean: mean of phi of each expert, ``[k]``, from 0 to 1, in sum 1.
        entropy: mean entropy of a position's phi in nats, from 0 (one expert alone) to log k (all alike).
        entropy_normalized: the same over log k, from 0 to 1; nan for a single expert.
        load: share of positions whose highest phi is this expert's, ``[k]``, from 0 to 1, in sum 1.
        dead: experts, from 0, whose load is below `dead_below` times the even share 1 / k.
    """

    count: int
    participation_mean: tuple[float, ...]
    participation_std: tuple[float, ...]
    shapley_mean: tuple[float, ...]
    entropy: float
    entropy_normalized: float
    load: tuple[float, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True)
class InteractionState:
    """Where an interaction matrix M stands.

    Args:
        drift: ``||M - M_0|| / ||M_0||`` in Frobenius norm, >= 0; M_0 is M at the start.
        condition: condition number of M in the 2-norm, >= 1, inf if M is singular.
    """

    drift: float
    condition: float


@dataclass(frozen=True)
class LayerRouting:
    """How one adapter of one layer routed since the last time.

    Args:
        layer: the layer's name in the model.
        adapter: the adapter's name.
        k: number of experts.
        interaction: None if M is fixed at the identity.
        groups: by name; a group without a position is absent.
    """

    layer: str
    adapter: str
    k: int
    interaction: InteractionState | None
    groups: dict[str, GroupRouting]


def features(record: RoutingRecord, valid: Tensor) -> Tensor:
    """Return what is summed over positions, ``[N, 4k + 2]``: omega, omega^2, phi, one-hot choice, entropy, 1."""
    wide = wide_dtype(record.logits.device)
    logits = record.logits.detach().flatten(0, -2).to(wide)  # [N, k]
    omega = record.participation.detach().flatten(0, -2).to(wide)  # [N, k]
    log_phi = torch.log_softmax(logits, dim=-1)  # [N, k]
    phi = log_phi.exp()
    choice = torch.zeros_like(phi).scatter_(1, logits.argmax(dim=-1, keepdim=True), 1.0)  # [N, k]
    entropy = -(phi * log_phi).sum(dim=-1, keepdim=True)  # [N, 1]
    rows = torch.cat([omega, omega.square(), phi, choice, entropy, torch.ones_like(entropy)], dim=-1)
    # A weight of zero is not enough: what stands at padding may be nan.
    return torch.where(valid.unsqueeze(-1), rows, torch.zeros_like(rows))


def group_routing(row: Tensor, k: int, dead_below: float) -> GroupRouting:
    """Turn one row of `features`, summed over positions, ``[4k + 2]``, into statistics."""
    count = float(row[-1])
    mean = row / count
    omega, square, phi, load = mean[: 4 * k].view(4, k)
    entropy = float(mean[-2])
    return GroupRouting(
        count=round(count),
        participation_mean=tuple(omega.tolist()),
        participation_std=tuple((square - omega.square()).clamp(min=0.0).sqrt().tolist()),
        shapley_mean=tuple(phi.tolist()),
        entropy=entropy,
        entropy_normalized=entropy / math.log(k) if k > 1 else math.nan,
        load=tuple(load.tolist()),
        dead=tuple(i for i, share in enumerate(load.tolist()) if share < dead_below / k),
    )


def interaction_state(now: Tensor | None, start: Tensor | None) -> InteractionState | None:
    """Compare M, ``[k, k]`` in float64, with M at the start; None if there is none."""
    if now is None or start is None:
        return None
    drift = float((now - start).norm() / start.norm())
    if not now.isfinite().all():
        return InteractionState(drift, math.nan)
    scales = torch.linalg.svdvals(now).tolist()  # falling
    return InteractionState(drift, scales[0] / scales[-1] if scales[-1] > 0 else math.inf)


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the widest float of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
