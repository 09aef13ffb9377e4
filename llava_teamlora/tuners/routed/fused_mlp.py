"""A gated MLP of three routed linears as one autograd function: ``down(silu(gate(x)) * up(x))``.

In: the input and, for each linear, its frozen weight and one adapter's weights. Out: the output, and the three
routers' logits for those who listen. Beside weights only x, the outputs of gate and up, and the three [z | logits] are
kept for the backward pass: what stands between them and the down projection is computed again, element by element.
Gate and up read the same x, so one GEMM serves both their projections, one the gradients of those, and one adds what
comes back through them to x's. The pieces are fused_linear.py's, as are its rules on dtypes.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llava_teamlora.tuners.routed.fused_linear import (
    Sizes,
    Weights,
    add_product,
    backward_to_projection,
    base_product,
    parts,
    project,
    project_backward_input,
    project_backward_weights,
    unstack,
)
from llava_teamlora.tuners.routed.gradients import cast, mix_routed, no_autocast, padding, stack_rows
from llava_teamlora.tuners.routed.swiglu import swiglu, swiglu_backward


class Adapted(NamedTuple):
    """A linear: W_0 ``[D_out, D_in]`` and bias (or None), frozen, then its adapter: A, B, W_r, M (or None), sizes."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    router: Tensor
    interaction: Tensor | None
    sizes: Sizes

    @property
    def adapter(self) -> Weights:
        """The adapter's weights."""
        return Weights(self.a, self.b, self.router, self.interaction)


class Projected(NamedTuple):
    """What a linear's input became: [z | logits | padding], ``[N, n]``, and dropout's mask, ``[N, D_in]`` or None."""

    s: Tensor
    mask: Tensor | None


def fused_mlp(
    x: Tensor, gate: Adapted, up: Adapted, down: Adapted, *, skip_output: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Compute ``down(silu(gate(x)) * up(x))``, each linear with its routed adapter.

    Args:
        x: ``[..., D_in]``, in the base's computing dtype.
        gate: weights ``[D_hidden, D_in]``, in any floating dtype.
        up: as `gate`.
        down: weights ``[D_out, D_hidden]``.
        skip_output: leave the down projection out, where only what is kept for the backward pass is wanted. The output
            is then NaN throughout, so that a use of it cannot pass unseen.

    Returns:
        The output ``[..., D_out]`` in the dtype of `x`; and the logits of gate, up and down, ``[..., k]`` each, float32
        or wider.
    """
    flat = x.reshape(-1, x.shape[-1])
    sizes = (gate.sizes, up.sizes, down.sizes)
    y, *logits = _FusedMlp.apply(flat, *gate[:-1], *up[:-1], *down[:-1], *sizes, skip_output)
    of_gate, of_up, of_down = (one.view(*x.shape[:-1], one.shape[-1]) for one in logits)
    return y.view(*x.shape[:-1], y.shape[-1]), (of_gate, of_up, of_down)


class _FusedMlp(Function):
    """What `fused_mlp` says, for x ``[N, D_in]``; `given` are the tensors of gate, up and down, then their sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y ``[N, D_out]`` and the logits of gate, up and down, ``[N, k]`` each."""
        *tensors, of_gate, of_up, of_down, skip_output = given
        gate, up, down = _linears(tensors, (of_gate, of_up, of_down))
        with no_autocast(x):
            gate_in, up_in = _project_pair(x, gate, up)
            g, gate_logits = _output(x, gate_in, gate)  # [N, D_hidden]
            u, up_logits = _output(x, up_in, up)
            h = swiglu(g, u)
            down_in = Projected(*project(h, down.a, down.router, down.sizes))
            if skip_output:
                y = x.new_full((), torch.nan).expand(x.shape[0], down.weight.shape[0])
                down_logits = parts(down_in.s, down.a, down.router, down.sizes)[1]
            else:
                y, down_logits = _output(h, down_in, down)
        ctx.sizes = (of_gate, of_up, of_down)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, g, u, *gate_in, *up_in, *down_in, *tensors)
        return y, gate_logits, up_logits, down_logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of each linear's A, B, W_r and M; base weights and biases are frozen."""
        x, g, u, gate_s, gate_mask, up_s, up_mask, down_s, down_mask, *tensors = ctx.saved_tensors
        gate, up, down = _linears(tensors, ctx.sizes)
        dy, *dlogits = grads
        if dy is None:
            dy = x.new_zeros(x.shape[0], down.weight.shape[0])
        with no_autocast(x):
            # From the output to the hidden columns; `dh` gathers both ways through the down projection.
            ds, db, dm = backward_to_projection(dy, dlogits[2], down_s, down.adapter, down.sizes)
            dh = torch.mm(dy, cast(down.weight, dy.dtype))  # [N, D_hidden]
            dh = project_backward_input(dh, ds, down.a, down.router, down_mask, down.sizes)
            dg, du, h = swiglu_backward(dh, g, u)
            da, drouter = project_backward_weights(ds, h, down.a, down.router, down_mask, down.sizes)
            of_down = (None, None, da, db, drouter, dm)
            del dh, h
            # From the hidden columns to the input.
            gate_ds, gate_db, gate_dm = backward_to_projection(dg, dlogits[0], gate_s, gate.adapter, gate.sizes)
            up_ds, up_db, up_dm = backward_to_projection(du, dlogits[1], up_s, up.adapter, up.sizes)
            dx = None
            if ctx.needs_input_grad[0]:
                dx = torch.mm(dg, cast(gate.weight, dg.dtype)).addmm_(du, cast(up.weight, du.dtype))  # [N, D_in]
            pair = (Projected(gate_ds, gate_mask), Projected(up_ds, up_mask))
            dx, (gate_da, gate_drouter), (up_da, up_drouter) = _pair_backward(dx, x, pair, gate, up)
        of_gate = (None, None, gate_da, gate_db, gate_drouter, gate_dm)
        of_up = (None, None, up_da, up_db, up_drouter, up_dm)
        return dx, *of_gate, *of_up, *of_down, None, None, None, None


def _linears(tensors: Any, sizes: tuple[Sizes, Sizes, Sizes]) -> list[Adapted]:
    """Put the tensors of gate, up and down, six each, together again."""
    return [Adapted(*tensors[6 * i : 6 * i + 6], sizes=one) for i, one in enumerate(sizes)]


def _output(x: Tensor, projected: Projected, linear: Adapted) -> tuple[Tensor, Tensor]:
    """Return a linear's output ``[N, D_out]`` and its logits ``[N, k]``."""
    sizes = linear.sizes
    z, logits = parts(projected.s, linear.a, linear.router, sizes)
    h = mix_routed(z, logits, linear.interaction, sizes.r, sizes.scale)  # [N, k*r]
    return add_product(base_product(x, linear.weight, linear.bias), h, cast(linear.b, sizes.dtype).t()), logits


def _rows(gate: Adapted, up: Adapted) -> tuple[Tensor, Tensor] | None:
    """Return the rows of gate and of up that read x, for one GEMM; None where each drops other inputs of its A."""
    if gate.sizes.dropout or up.sizes.dropout or gate.sizes.dtype != up.sizes.dtype:
        return None
    of_gate, of_up = (stack_rows(one.a, one.router, dtype=one.sizes.dtype) for one in (gate, up))
    return of_gate, of_up


def _project_pair(x: Tensor, gate: Adapted, up: Adapted) -> tuple[Projected, Projected]:
    """Project the input of gate and up."""
    rows = _rows(gate, up)
    if rows is None:
        of_gate, of_up = (Projected(*project(x, one.a, one.router, one.sizes)) for one in (gate, up))
        return of_gate, of_up
    s = F.linear(cast(x, gate.sizes.dtype), torch.cat(rows))  # [N, n]
    of_gate, of_up = s.split([_width(gate), _width(up)], dim=1)
    return Projected(of_gate, None), Projected(of_up, None)


def _pair_backward(
    dx: Tensor | None, x: Tensor, grads: tuple[Projected, Projected], gate: Adapted, up: Adapted
) -> tuple[Tensor | None, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Go back through `_project_pair`.

    Args:
        dx: gradient of x, ``[N, D_in]``, to which is added in place; None if nobody wants it.
        x: the input.
        grads: gradients of what `_project_pair` returned, with its masks.

    Returns:
        `dx`; the gradients of A and W_r of gate; and those of up.
    """
    rows = _rows(gate, up)
    if rows is not None:
        ds = torch.cat([grads[0].s, grads[1].s], dim=1)  # [N, n]
        if dx is not None:
            dx = add_product(dx, ds, torch.cat(rows))
        of_gate, of_up = torch.mm(ds.t(), cast(x, ds.dtype)).split([_width(gate), _width(up)])
        return dx, unstack(of_gate, gate.a, gate.router, gate.sizes), unstack(of_up, up.a, up.router, up.sizes)
    of_weights = []
    for (ds, mask), one in zip(grads, (gate, up), strict=True):
        if dx is not None:
            dx = project_backward_input(dx, ds, one.a, one.router, mask, one.sizes)
        of_weights.append(project_backward_weights(ds, x, one.a, one.router, mask, one.sizes))
    return dx, *of_weights


def _width(linear: Adapted) -> int:
    """Return how many columns a linear's [z | logits | padding] has."""
    rows = linear.sizes.rank + linear.sizes.k
    return rows + padding(rows, linear.a.device)
