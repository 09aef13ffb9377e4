"""Routing and mixing with their gradients written out, the small pieces that every fused form is made of.

All tensors are two-dimensional, a row a token; N tokens, k experts, r rank of one expert. The wide dtype is float32,
or float64 where the inputs are. Source: TeamLoRA, equations 11 to 13.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGN = 16
"""Tensor cores want the rows of a stacked weight in multiples of this."""


class Routing(NamedTuple):
    """What became of the logits: Shapley values phi and participation omega, ``[N, k]`` each, wide."""

    shapley: Tensor
    participation: Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that routing is computed in."""
    return torch.promote_types(dtype, torch.float32)


def stack_rows(*weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Stack weights ``[n_i, D_in]`` that read the same input, so that one GEMM serves all of them.

    Returns:
        ``[n, D_in]`` in `dtype`; n is a multiple of ALIGN, the rows that fill it up are zero.
    """
    rows = sum(weight.shape[0] for weight in weights)
    fill = weights[0].new_zeros(-rows % ALIGN, weights[0].shape[1])
    return torch.cat([weight.to(dtype) for weight in (*weights, fill.to(dtype))])


def pad_columns(*columns: Tensor) -> Tensor:
    """Put columns ``[N, n_i]`` of one dtype side by side, zeros after them up to a multiple of ALIGN."""
    joined = torch.cat(columns, dim=1)
    return F.pad(joined, (0, -joined.shape[1] % ALIGN))


def no_autocast(x: Tensor) -> torch.autocast | nullcontext[None]:
    """Return a context with autocast off; the meta device, used to count, has none to turn off."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def route(logits: Tensor, interaction: Tensor | None) -> Routing:
    """Shapley values (equation 11) and participations (equation 12) of the experts.

    Args:
        logits: ``[N, k]``, wide.
        interaction: M, ``[k, k]``; None where it is the identity.
    """
    shapley = torch.softmax(logits, dim=-1)
    return Routing(shapley, shapley if interaction is None else shapley @ interaction.to(logits.dtype).T)


def route_backward(grad: Tensor, routing: Routing, interaction: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of the logits ``[N, k]`` and of M ``[k, k]``, from that of the participations ``[N, k]``."""
    of_interaction = None
    if interaction is not None:
        of_interaction = (grad.T @ routing.shapley).to(interaction.dtype)
        grad = grad @ interaction.to(grad.dtype)
    inner = (grad * routing.shapley).sum(-1, keepdim=True)
    return routing.shapley * (grad - inner), of_interaction


def mix(z: Tensor, participation: Tensor, r: int, scale: float) -> Tensor:
    """Weight each expert's r columns of `z` by ``scale * participation``: what B reads.

    Args:
        z: ``[N, k * r]``; ``[N, r]`` where all experts share A.
        participation: ``[N, k]``, wide.

    Returns:
        ``[N, k * r]`` in the dtype of `z`.
    """
    mixed = z.unflatten(-1, (-1, r)) * (participation * scale).unsqueeze(-1)  # [N, k, r]
    return mixed.flatten(1).to(z.dtype)


def mix_backward(grad: Tensor, z: Tensor, participation: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of `z` (its shape and dtype) and of the participations ``[N, k]``, wide, from ``[N, k * r]``."""
    wide = participation.dtype
    by_expert, segments = grad.unflatten(-1, (-1, r)), z.unflatten(-1, (-1, r))  # [N, k, r]
    of_participation = (by_expert.to(wide) * segments).sum(-1) * scale
    of_z = by_expert * (participation * scale).unsqueeze(-1)
    if segments.shape[1] == 1:
        of_z = of_z.sum(1, keepdim=True)
    return of_z.flatten(1).to(z.dtype), of_participation
