"""Routing and mixing with their gradients written out, the small pieces that every fused form is made of.

All tensors are two-dimensional, a row a token; N tokens, k experts, r rank of one expert. The wide dtype is float32,
or float64 where the inputs are. Source: TeamLoRA, equations 11 to 13.

mix_routed and mix_routed_backward, the whole way from logits to what B reads and back, are one Triton kernel each on
CUDA; the plain operations are its reference.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_teamlora.kernels import fits, usable

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
    """Return a context with autocast off; nothing to turn off costs nothing, and the meta device has no autocast."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


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
    mixed = _by_expert(z, r) * (participation * scale).unsqueeze(-1)  # [N, k, r]
    return mixed.flatten(1).to(z.dtype)


def mix_backward(grad: Tensor, z: Tensor, participation: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of `z` (its shape and dtype) and of the participations ``[N, k]``, wide, from ``[N, k * r]``."""
    wide = participation.dtype
    by_expert, segments = _by_expert(grad, r), _by_expert(z, r)  # [N, k, r]
    of_participation = (by_expert.to(wide) * segments).sum(-1) * scale
    of_z = by_expert * (participation * scale).unsqueeze(-1)
    if segments.shape[1] == 1:
        of_z = of_z.sum(1, keepdim=True)
    return of_z.flatten(1).to(z.dtype), of_participation


def mix_routed(z: Tensor, logits: Tensor, interaction: Tensor | None, r: int, scale: float) -> Tensor:
    """Route, then mix: ``route`` and ``mix`` in one.

    Args:
        z: ``[N, k * r]``; ``[N, r]`` where all experts share A.
        logits: ``[N, k]``, wide.
        interaction: M, ``[k, k]``; None where it is the identity.
        r: rank of one expert.
        scale: alpha / r.

    Returns:
        What B reads, ``[N, k * r]`` in the dtype of `z`.
    """
    if usable(z) and fits(logits.shape[1], r):
        from llava_teamlora.kernels import routing as kernels

        return kernels.mix_routed(z, logits, interaction, r, scale)
    return mix(z, route(logits, interaction).participation, r, scale)


def mix_routed_backward(
    dh: Tensor,
    z: Tensor,
    logits: Tensor,
    interaction: Tensor | None,
    dlogits: Tensor | None,
    r: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Go back through `mix_routed`.

    Args:
        dh: gradient of what it returned, ``[N, k * r]``.
        z: as there, like `logits`, `interaction`, `r` and `scale`.
        dlogits: what else is to be added to the logits' gradient, ``[N, k]``, wide; or None.

    Returns:
        Gradients of `z` and of the logits, both in the dtype of `z`; what `mix_routed` returned, again, which the
        gradient of B needs; and the gradient of M, or None.
    """
    if usable(z) and fits(logits.shape[1], r):
        from llava_teamlora.kernels import routing as kernels

        return kernels.mix_routed_backward(dh, z, logits, interaction, dlogits, r, scale)
    routing = route(logits, interaction)
    h = mix(z, routing.participation, r, scale)
    dz, dparticipation = mix_backward(dh, z, routing.participation, r, scale)
    of_logits, dinteraction = route_backward(dparticipation, routing, interaction)
    if dlogits is not None:
        of_logits = of_logits + dlogits
    return dz, of_logits.to(z.dtype), h, dinteraction


def _by_expert(columns: Tensor, r: int) -> Tensor:
    """See columns ``[N, k * r]`` as ``[N, k, r]``; k is said, for an empty batch leaves it open."""
    return columns.unflatten(1, (columns.shape[1] // r, r))
