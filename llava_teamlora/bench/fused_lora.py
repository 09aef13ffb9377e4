"""Plain LoRA with the gradients written out: TeamLoRA's competitor on equal terms, without experts and routing.

In: a frozen linear and an adapter's shape. Out: ``x W_0^T + scale * x A^T B^T`` as one autograd function that keeps
only x and z = x A^T, adds to its results in place, and makes no pass over the output but the GEMMs' own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from llava_teamlora.bench.parts import Shape
from llava_teamlora.bench.rivals import Rival
from llava_teamlora.tuners.routed.fused_linear import add_product
from llava_teamlora.tuners.routed.gradients import drop, drop_again


class FusedLora(Rival):
    """A linear with a LoRA of rank ``k * r``."""

    def __init__(self, base: nn.Linear, shape: Shape) -> None:
        super().__init__(base, shape, shared=False, split=False, routed=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D_in]`` to ``[..., D_out]``."""
        base, a, b = (part.weight for part in (self.base, self.a[0], self.b[0]))
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, base = x.to(dtype), base.to(dtype)
        flat = x.reshape(-1, x.shape[-1])
        p = self.shape.dropout if self.training else 0.0
        y: Any = _FusedLora.apply(flat, base, self.base.bias, a, b, self.shape.scale, p)
        return y.view(*x.shape[:-1], -1)


class _FusedLora(Function):
    """What the module says, for x ``[N, D_in]`` in the computing dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, p: float
    ) -> Tensor:
        """Return y ``[N, D_out]``."""
        dropped, mask = drop(x, p) if p else (x, None)
        z = dropped @ a.to(x.dtype).T  # [N, rank]
        y = add_product(F.linear(x, weight, bias), z * scale, b.to(x.dtype).T)
        ctx.scale, ctx.p = scale, p
        ctx.save_for_backward(x, weight, a, b, z, mask)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        x, weight, a, b, z, mask = ctx.saved_tensors
        dz = (dy @ b.to(dy.dtype)).mul_(ctx.scale)  # [N, rank]
        db = dy.T @ (z * ctx.scale)  # [D_out, rank]
        dropped = x if mask is None else drop_again(x, mask, ctx.p)
        da = dz.T @ dropped  # [rank, D_in]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight  # [N, D_in]
            if mask is None:
                dx = add_product(dx, dz, a.to(dz.dtype))
            else:
                dx = dx.add_(drop_again(dz @ a.to(dz.dtype), mask, ctx.p))
        return dx, None, None, da.to(a.dtype), db.to(b.dtype), None, None
