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

from llava_teamlora.tuners.routed.gradients import (
    mix,
    mix_backward,
    no_autocast,
    pad_columns,
    route,
    route_backward,
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
    """What is no tensor: rank of one expert, alpha / r, dropout on A's input, the adapter's computing dtype."""

    r: int
    scale: float
    dropout: float
    dtype: torch.dtype


def fused_linear(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, adapter: Weights, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Compute ``x W_0^T + bias + scale * sum_i omega_i z_i B_i``.

    Args:
        x: ``[..., D_in]``, in the base's computing dtype.
        weight: W_0, ``[D_out, D_in]``, frozen, in the dtype of `x`; None leaves the base's part to the caller.
        bias: ``[D_out]``, frozen; None where there is none.
        adapter: its weights, in any floating dtype.
        sizes: see there.

    Returns:
        The output ``[..., D_out]`` in the dtype of `x`, or the update alone in the adapter's computing dtype; and the
        logits ``[..., k]``, float32 or wider.
    """
    y, logits = _FusedLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias, *adapter, sizes)
    return y.view(*x.shape[:-1], -1), logits.view(*x.shape[:-1], -1)


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
            h = mix(z, route(logits, interaction).participation, sizes.r, sizes.scale)  # [N, k*r]
            y = None if weight is None else F.linear(x, weight, bias)  # [N, D_out]
            y = add_product(y, h, b.to(sizes.dtype).T)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, a, b, router, interaction, s, mask)
        return y, logits

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dlogits: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A, B, W_r and M; base weight and bias are frozen."""
        x, weight, a, b, router, interaction, s, mask = ctx.saved_tensors
        sizes: Sizes = ctx.sizes
        if dy is None:
            dy = x.new_zeros(x.shape[0], b.shape[0])
        ds, db, dinteraction = backward_to_projection(dy, dlogits, s, Weights(a, b, router, interaction), sizes)
        da, drouter = project_backward_weights(ds, x, a, router, mask, sizes)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = None if weight is None else dy.to(weight.dtype) @ weight  # [N, D_in]
            dx = project_backward_input(dx, ds, a, router, mask, sizes).to(x.dtype)
        return dx, None, None, da, db, drouter, dinteraction, None


def project(x: Tensor, a: Tensor, router: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor | None]:
    """Return [z | logits | padding], ``[N, n]`` in the adapter's dtype, and dropout's mask, ``[N, D_in]`` or None."""
    x = x.to(sizes.dtype)
    if not sizes.dropout:
        return x @ stack_rows(a, router, dtype=sizes.dtype).T, None
    dropped, mask = torch.native_dropout(x, sizes.dropout, True)
    return torch.cat([dropped @ a.to(sizes.dtype).T, x @ router.to(sizes.dtype).T], dim=1), mask


def parts(s: Tensor, a: Tensor, router: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return z, a view of `s`, and the logits, wide."""
    rank, k = a.shape[0], router.shape[0]
    return s[:, :rank], s[:, rank : rank + k].to(wide_dtype(sizes.dtype))


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
    dy = dy.to(sizes.dtype)
    z, logits = parts(s, a, router, sizes)
    routing = route(logits, interaction)
    dh = dy @ b.to(sizes.dtype)  # [N, k*r]
    db = dy.T @ mix(z, routing.participation, sizes.r, sizes.scale)  # [D_out, k*r]
    dz, dparticipation = mix_backward(dh, z, routing.participation, sizes.r, sizes.scale)
    of_logits, dinteraction = route_backward(dparticipation, routing, interaction)
    if dlogits is not None:
        of_logits = of_logits + dlogits
    return pad_columns(dz, of_logits.to(sizes.dtype)), db.to(b.dtype), dinteraction


def project_backward_weights(
    ds: Tensor, x: Tensor, a: Tensor, router: Tensor, mask: Tensor | None, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Return the gradients of A and of W_r."""
    rank, k = a.shape[0], router.shape[0]
    x = x.to(sizes.dtype)
    if mask is None:
        stacked = ds.T @ x  # [n, D_in]
        return stacked[:rank].to(a.dtype), stacked[rank : rank + k].to(router.dtype)
    dropped = torch.ops.aten.native_dropout_backward(x, mask, 1 / (1 - sizes.dropout))
    return (ds[:, :rank].T @ dropped).to(a.dtype), (ds[:, rank : rank + k].T @ x).to(router.dtype)


def project_backward_input(
    dx: Tensor | None, ds: Tensor, a: Tensor, router: Tensor, mask: Tensor | None, sizes: Sizes
) -> Tensor:
    """Add what comes through `project` to the gradient of its input, in place; None makes a new one."""
    if mask is None:
        return add_product(dx, ds, stack_rows(a, router, dtype=sizes.dtype))
    rank, k = a.shape[0], router.shape[0]
    through = ds[:, :rank] @ a.to(sizes.dtype)  # [N, D_in]
    through = torch.ops.aten.native_dropout_backward(through, mask, 1 / (1 - sizes.dropout))
    through = through.addmm_(ds[:, rank : rank + k], router.to(sizes.dtype))
    return through if dx is None else dx.add_(through)


def add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add ``left @ right`` to `total` in place, in one GEMM where their dtypes allow; None makes a new tensor."""
    if total is None:
        return left @ right
    return total.addmm_(left, right) if total.dtype == left.dtype else total.add_(left @ right)
