"""What TeamLoRA is measured against, each a linear of its own: the routed methods as published, and batched.

In: a frozen linear and an adapter's shape. Out: a module with the same output as the method's equation. The published
codes run their experts one by one: HydraLoRA's (Tian et al., 2024, ``HydraLoRA/peft/tuners/lora.py``) computes x A
again for each expert, with a dropout mask of its own, and weights an output of full width; the public MOELoRA (Liu et
al., ``mmoeloraS.py``) and LoRAMoE do so with an A for each expert. The batched forms do all experts in two GEMMs, the
best that plain operations allow. Softmax is float32 in all of them, the router's GEMM in the computing dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llava_teamlora.bench.parts import Parts, Shape, weight_of


class Rival(nn.Module):
    """A frozen linear and an adapter's weights.

    Args:
        base: ``D_in -> D_out``.
        shape: of the adapter.
        shared: whether all experts share one A.
        split: whether each expert's A and B are linears of their own, as published.
        routed: whether there is a router.
    """

    def __init__(self, base: nn.Linear, shape: Shape, *, shared: bool, split: bool, routed: bool = True) -> None:
        super().__init__()
        self.base, self.shape = base.requires_grad_(False), shape
        d_in, d_out, k, r = base.in_features, base.out_features, shape.k, shape.r
        downs = 1 if shared or not split else k
        rank = r if shared else k * r
        self.a = nn.ModuleList(nn.Linear(d_in, rank // downs, bias=False) for _ in range(downs))
        ups = k if split else 1
        self.b = nn.ModuleList(nn.Linear(k * r // ups, d_out, bias=False) for _ in range(ups))
        self.router = nn.Linear(d_in, k, bias=False) if routed else None
        self.dropout = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()

    def parts(self) -> Parts:
        """The adapter's weights."""
        router = () if self.router is None else (self.router.weight,)
        return Parts(tuple(map(weight_of, self.a)), tuple(map(weight_of, self.b)), router, ())

    def shares(self, x: Tensor) -> Tensor:
        """Softmax over the experts, ``[..., k]``, float32."""
        assert self.router is not None
        return torch.softmax(self.router(x), dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))


class Loop(Rival):
    """As published: one expert after the other, each with an output of full width."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D_in]`` to ``[..., D_out]``."""
        result = self.base(x)
        shares = self.shares(x).to(result.dtype)
        for i, b in enumerate(self.b):
            a = self.a[i % len(self.a)]
            result = result + shares[..., i : i + 1] * b(a(self.dropout(x))) * self.shape.scale
        return result


class Batched(Rival):
    """All experts in two GEMMs, the weights applied between them, at the rank's width."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D_in]`` to ``[..., D_out]``."""
        weights = (self.shares(x) * self.shape.scale).to(x.dtype)  # [..., k]
        z = self.a[0](self.dropout(x))  # [..., k*r], or [..., r] where A is shared
        mixed = z.unflatten(-1, (-1, self.shape.r)) * weights.unsqueeze(-1)  # [..., k, r]
        return self.base(x) + self.b[0](mixed.flatten(-2).to(z.dtype))
