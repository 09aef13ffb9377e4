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

_ALIGN = 16
"""Tensor cores want the rows of a stacked weight in multiples of this."""


class Routing(NamedTuple):
    """What became of the logits: Shapley values phi and participation omega, ``[N, k]`` each, wide."""

    shapley: Tensor
    participation: Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that routing is computed in."""
    return torch.promote_types(dtype, torch.float32)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a dtype; one that is in it already, as most are, is spared the microsecond of a call."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def padding(rows: int, device: torch.device) -> int:
    """Return how many zero rows fill up a stack of so many; a CPU's products are only slower for them."""
    return 0 if device.type == "cpu" else -rows % _ALIGN


def stack_rows(*weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Stack weights ``[n_i, D_in]`` that read the same input, so that one GEMM serves all of them.

    Returns:
        ``[n, D_in]`` in `dtype`, `padding` at the end.
    """
    stacked = [cast(weight, dtype) for weight in weights]
    if fill := padding(sum(map(len, stacked)), stacked[0].device):
        stacked.append(stacked[0].new_zeros(fill, stacked[0].shape[1]))
    return torch.cat(stacked)


def pad_columns(*columns: Tensor) -> Tensor:
    """Put columns ``[N, n_i]`` of one dtype side by side, `padding` at the end."""
    joined = torch.cat(columns, dim=1)
    fill = padding(joined.shape[1], joined.device)
    return F.pad(joined, (0, fill)) if fill else joined


def drop(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Drop elements of `x`, as torch's dropout does with the same random numbers.

    Returns:
        What is left of ``[N, D]``, scaled; and a mask of the same shape, True where an element was kept.
    """
    if x.device.type != "cpu":
        return torch.native_dropout(x, p, True)
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p)
    return drop_again(x, mask, p), mask


def drop_again(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """Drop what `drop` has dropped; its backward pass is the same."""
    if x.device.type != "cpu":
        return torch.ops.aten.native_dropout_backward(x, mask, 1 / (1 - p))
    return (x * mask.view(torch.uint8)).mul_(1 / (1 - p))  # a CPU reads bytes several times as fast as booleans


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
    shapley = torch.softmax(logits.t(), dim=0).t()  # vectorised over tokens: over so few experts it would not be
    return Routing(shapley, shapley if interaction is None else F.linear(shapley, cast(interaction, logits.dtype)))


def route_backward(grad: Tensor, routing: Routing, interaction: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of the logits ``[N, k]`` and of M ``[k, k]``, from that of the participations ``[N, k]``."""
    of_interaction = None
    if interaction is not None:
        of_interaction = cast(torch.mm(grad.t(), routing.shapley), interaction.dtype)
        grad = grad @ cast(interaction, grad.dtype)
    return torch.ops.aten._softmax_backward_data(grad.t(), routing.shapley.t(), 0, grad.dtype).t(), of_interaction


def mix(z: Tensor, participation: Tensor, r: int, scale: float) -> Tensor:
    """Weight each expert's r columns of `z` by ``scale * participation``: what B reads.

    Args:
        z: ``[N, k * r]``; ``[N, r]`` where all experts share A.
        participation: ``[N, k]``, wide.

    Returns:
        ``[N, k * r]`` in the dtype of `z`.
    """
    mixed = _by_expert(z, r) * (participation * scale).unsqueeze(-1)  # [N, k, r]
    return cast(mixed.flatten(1), z.dtype)


def mix_backward(grad: Tensor, z: Tensor, participation: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Go back through `mix`, from a gradient ``[N, k * r]``.

    Returns:
        Gradients of `z` (its shape and dtype) and of the participations, ``[N, k]``, wide; and what `mix` returned.
    """
    wide = participation.dtype
    by_expert, segments = cast(_by_expert(grad, r), wide), cast(_by_expert(z, r), wide)  # [N, k, r]
    weights = (participation * scale).unsqueeze(-1)  # [N, k, 1]
    of_participation = (by_expert * segments).sum(-1) * scale
    of_z = by_expert * weights
    if segments.shape[1] == 1:
        of_z = of_z.sum(1, keepdim=True)
    mixed = (segments * weights).flatten(1)
    return cast(of_z.flatten(1), z.dtype), of_participation, cast(mixed, z.dtype)


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
    dz, dparticipation, h = mix_backward(dh, z, routing.participation, r, scale)
    of_logits, dinteraction = route_backward(dparticipation, routing, interaction)
    if dlogits is not None:
        of_logits = of_logits + dlogits
    return dz, cast(of_logits, z.dtype), h, dinteraction


def _by_expert(columns: Tensor, r: int) -> Tensor:
    """See columns ``[N, k * r]`` as ``[N, k, r]``; k is said, for an empty batch leaves it open."""
    rows, width = columns.shape
    return columns.view(rows, width // r, r)
