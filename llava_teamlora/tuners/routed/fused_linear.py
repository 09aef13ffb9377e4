"""A routed linear as one autograd function: fewest GEMMs, and only x, z and the logits kept for the backward pass.

In: the input, a frozen base weight (or none: then only the update is computed) and one adapter's weights. Out: the
output, and the router's logits for those who listen. Plain autograd, as in product.py, keeps a dozen tensors of the
rank's size and makes a pass over the output for each term; here

    forward    [z | logits] = x [A; W_r]^T          y  = x W_0^T, then y += h B^T in place
    backward   d[A; W_r] = [dz | dlogits]^T x       dx = dy W_0, then dx += [dz | dlogits] [A; W_r] in place

with h = mix(z, omega). Weights go through save_for_backward, so that what gathers or offloads them sees them; stacked
weights, and whatever has a row for each token and is not saved, are computed again. The GEMM of the logits runs in the
adapter's computing dtype; softmax, M and the sums over ranks are float32 or wider.
Differs from router.py: there the logits' GEMM is float32 too, at the cost of a float32 copy of x.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llava_teamlora.tuners.routed.gradients import (
    cast,
    drop,
    drop_again,
    mix_routed,
    mix_routed_backward,
    no_autocast,
    pad_columns,
    stack_rows,
    wide_dtype,
)


class Weights(NamedTuple):
    """One adapter's weights as its layer holds them: A, B, W_r, and M (None where it is the identity)."""

    a: Tensor
    b: Tensor
    router: Tensor
    interaction: Tensor | None


class Sizes(NamedTuple):
    """What is no tensor, and what a tensor's shape tells, for torch.compile loses a saved shape on its way back.

    Args:
        r: rank of one expert.
        scale: alpha / r.
        dropout: probability of dropping an input of A, 0 outside of training.
        dtype: the adapter's computing dtype.
        k: number of experts.
        rank: rows of A: k * r, or r where all experts share it.
    """

    r: int
    scale: float
    dropout: float
    dtype: torch.dtype
    k: int
    rank: int


def fused_linear(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, adapter: Weights, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Compute ``x W_0^T + bias + scale * sum_i omega_i z_i B_i``.

    Args:
        x: ``[..., D_in]``, in the base's computing dtype.
        weight: W_0, ``[D_out, D_in]``, frozen, in any floating dtype; None leaves the base's part to the caller.
        bias: ``[D_out]``, frozen, likewise; None where there is none.
        adapter: its weights, in any floating dtype.
        sizes: see there.

    Returns:
        The output ``[..., D_out]`` in the dtype of `x`, or the update alone in the adapter's computing dtype; and the
        logits ``[..., k]``, float32 or wider.
    """
    y, logits = _FusedLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias, *adapter, sizes)
    return y.view(*x.shape[:-1], y.shape[1]), logits.view(*x.shape[:-1], sizes.k)


class _FusedLinear(Function):
    """What `fused_linear` says, for x ``[N, D_in]``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        router: Tensor,
        interaction: Tensor | None,
        sizes: Sizes,
    ) -> tuple[Tensor, Tensor]:
        """Return y ``[N, D_out]`` and the logits ``[N, k]``."""
        with no_autocast(x):
            s, mask = project(x, a, router, sizes)
            z, logits = parts(s, a, router, sizes)
            h = mix_routed(z, logits, interaction, sizes.r, sizes.scale)  # [N, k*r]
            y = None if weight is None else base_product(x, weight, bias)  # [N, D_out]
            y = add_product(y, h, cast(b, sizes.dtype).t())
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, a, b, router, interaction, s, mask)
        return y, logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dlogits: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A, B, W_r and M; base weight and bias are frozen."""
        x, weight, a, b, router, interaction, s, mask = ctx.saved_tensors
        sizes: Sizes = ctx.sizes
        of_y: Tensor = x.new_zeros(x.shape[0], b.shape[0]) if dy is None else dy
        with no_autocast(x):
            ds, db, dinteraction = backward_to_projection(of_y, dlogits, s, Weights(a, b, router, interaction), sizes)
            dx = da = drouter = None
            if ctx.needs_input_grad[3] or ctx.needs_input_grad[5]:
                da, drouter = project_backward_weights(ds, x, a, router, mask, sizes)
            if ctx.needs_input_grad[0]:
                dx = None if weight is None else torch.mm(of_y, cast(weight, of_y.dtype))  # [N, D_in]
                dx = cast(project_backward_input(dx, ds, a, router, mask, sizes), x.dtype)
        return dx, None, None, da, db, drouter, dinteraction, None


def base_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x W_0^T + bias`` in the dtype of `x`; a cast weight is not kept but cast again on the way back."""
    return F.linear(x, cast(weight, x.dtype), None if bias is None else cast(bias, x.dtype))


def project(x: Tensor, a: Tensor, router: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor | None]:
    """Return [z | logits | padding], ``[N, n]`` in the adapter's dtype, and dropout's mask, ``[N, D_in]`` or None."""
    x = cast(x, sizes.dtype)
    if not sizes.dropout:
        return F.linear(x, stack_rows(a, router, dtype=sizes.dtype)), None
    dropped, mask = drop(x, sizes.dropout)
    return torch.cat([dropped @ cast(a, sizes.dtype).T, x @ cast(router, sizes.dtype).T], dim=1), mask


def parts(s: Tensor, a: Tensor, router: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return z, a view of `s`, and the logits, wide."""
    rank, k = sizes.rank, sizes.k
    z, logits, _ = s.split_with_sizes((rank, k, s.shape[1] - rank - k), 1)
    return z, cast(logits, wide_dtype(sizes.dtype))


def backward_to_projection(
    dy: Tensor, dlogits: Tensor | None, s: Tensor, adapter: Weights, sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Go back from the output to what `project` returned.

    Args:
        dy: gradient of the output, ``[N, D_out]``.
        dlogits: of the logits, from those who listened, ``[N, k]``; or None.
        s: [z | logits | padding].

    Returns:
        Gradients of [z | logits | padding], padded anew, in the adapter's computing dtype; of B; and of M or None.
    """
    a, b, router, interaction = adapter
    dy = cast(dy, sizes.dtype)
    z, logits = parts(s, a, router, sizes)
    dh = torch.mm(dy, cast(b, sizes.dtype))  # [N, k*r]
    dz, of_logits, h, dinteraction = mix_routed_backward(dh, z, logits, interaction, dlogits, sizes.r, sizes.scale)
    db = torch.mm(dy.t(), h)  # [D_out, k*r]
    return pad_columns(dz, of_logits), cast(db, b.dtype), dinteraction


def project_backward_weights(
    ds: Tensor, x: Tensor, a: Tensor, router: Tensor, mask: Tensor | None, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Return the gradients of A and of W_r."""
    rank, k = sizes.rank, sizes.k
    x = cast(x, sizes.dtype)
    if mask is None:
        return unstack(torch.mm(ds.t(), x), a, router, sizes)
    dropped = drop_again(x, mask, sizes.dropout)
    return (ds[:, :rank].T @ dropped).to(a.dtype), (ds[:, rank : rank + k].T @ x).to(router.dtype)


def unstack(rows: Tensor, a: Tensor, router: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return what belongs to A and to W_r of the rows ``[n, D_in]`` of a stacked weight's gradient."""
    rank, k = sizes.rank, sizes.k
    da, drouter, _ = rows.split_with_sizes((rank, k, rows.shape[0] - rank - k))
    return cast(da, a.dtype), cast(drouter, router.dtype)


def project_backward_input(
    dx: Tensor | None, ds: Tensor, a: Tensor, router: Tensor, mask: Tensor | None, sizes: Sizes
) -> Tensor:
    """Add what comes through `project` to the gradient of its input, in place; None makes a new one."""
    if mask is None:
        return add_product(dx, ds, stack_rows(a, router, dtype=sizes.dtype))
    rank, k = sizes.rank, sizes.k
    through = ds[:, :rank] @ cast(a, sizes.dtype)  # [N, D_in]
    through = drop_again(through, mask, sizes.dropout)
    through = through.addmm_(ds[:, rank : rank + k], cast(router, sizes.dtype))
    return through if dx is None else dx.add_(through)


def add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add ``left @ right`` to `total` in place, in one GEMM where their dtypes allow; None makes a new tensor."""
    if total is None:
        return torch.mm(left, right)
    return total.addmm_(left, right) if total.dtype == left.dtype else total.add_(left @ right)
