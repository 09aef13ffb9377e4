"""Softmax, M, scale and the weighting of the experts' ranks in one pass, forward and backward.

The reference is mix_routed and mix_routed_backward of tuners/routed/gradients.py. A program holds a few tokens with all
their experts; sums run in float32 (float64 for float64 tensors). M's gradient is summed over the tokens of a program
here and over the programs by torch, so that the same input always gives the same bits.
"""

# Inside of its functions triton has a language of its own; and it need not be installed.
# pyright: reportArgumentType=false, reportMissingImports=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOptionalOperand=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from llava_teamlora.kernels import LARGEST, power_of_2


def mix_routed(z: Tensor, logits: Tensor, interaction: Tensor | None, r: int, scale: float) -> Tensor:
    """Return what B reads, ``[N, k * r]``; see tuners/routed/gradients.py. Columns must lie side by side."""
    n, k = logits.shape
    h = torch.empty((n, k * r), dtype=z.dtype, device=z.device)
    if n:
        m = None if interaction is None else interaction.contiguous()
        sizes = _sizes(z, k, r, m)
        with torch.cuda.device_of(z):
            _forward[(triton.cdiv(n, sizes["BLOCK"]),)](
                z, logits, m, h, z.stride(0), logits.stride(0), n, SCALE=scale, **sizes
            )
    return h


def mix_routed_backward(
    dh: Tensor,
    z: Tensor,
    logits: Tensor,
    interaction: Tensor | None,
    dlogits: Tensor | None,
    r: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return dz, the logits' gradient, h again and dM or None; see tuners/routed/gradients.py."""
    n, k = logits.shape
    dz, of_logits, h = (torch.empty((n, width), dtype=z.dtype, device=z.device) for width in (z.shape[1], k, k * r))
    m = None if interaction is None else interaction.contiguous()
    sizes = _sizes(z, k, r, m)
    programs = triton.cdiv(n, sizes["BLOCK"])
    wide = torch.promote_types(z.dtype, torch.float32)
    dm = None if m is None else torch.empty((programs, k, k), dtype=wide, device=z.device)
    if n:
        extra = None if dlogits is None else dlogits.contiguous()
        tensors = (dh, z, logits, m, extra, dz, of_logits, h, dm)
        strides = (dh.stride(0), z.stride(0), logits.stride(0))
        with torch.cuda.device_of(z):
            _backward[(programs,)](*tensors, *strides, n, SCALE=scale, **sizes, EXTRA=extra is not None)
    return dz, of_logits, h, None if dm is None or interaction is None else dm.sum(0).to(interaction.dtype)


def _sizes(z: Tensor, k: int, r: int, interaction: Tensor | None) -> dict[str, object]:
    """What the kernels are compiled for. A tile of BLOCK tokens holds at most LARGEST elements."""
    experts, ranks = power_of_2(k), power_of_2(r)
    return {
        "K": k,
        "R": r,
        "EXPERTS": experts,
        "RANKS": ranks,
        "SHARED": z.shape[1] == r,
        "MIXES": interaction is not None,
        "WIDE": tl.float64 if z.dtype == torch.float64 else tl.float32,
        "BLOCK": max(1, min(16, LARGEST // (experts * max(experts, ranks)))),
    }


@triton.jit
def shapley(logits, rows, stride, live, K: tl.constexpr, EXPERTS: tl.constexpr, WIDE: tl.constexpr):
    """Softmax of the logits of some rows, ``[BLOCK, EXPERTS]``; 0 for experts past K."""
    expert = tl.arange(0, EXPERTS)[None, :]
    at = logits + rows[:, None] * stride + expert
    s = tl.load(at, mask=live[:, None] & (expert < K), other=0).to(WIDE)
    s = tl.where(expert < K, s, -float("inf"))
    e = tl.exp(s - tl.max(s, axis=1)[:, None])
    return e / tl.sum(e, axis=1)[:, None]


@triton.jit
def square(interaction, K: tl.constexpr, EXPERTS: tl.constexpr, WIDE: tl.constexpr):
    """M, ``[EXPERTS, EXPERTS]``, zeros past K."""
    i, j = tl.arange(0, EXPERTS)[:, None], tl.arange(0, EXPERTS)[None, :]
    return tl.load(interaction + i * K + j, mask=(i < K) & (j < K), other=0).to(WIDE)


@triton.jit
def _forward(
    z,
    logits,
    interaction,
    h,
    z_stride,
    logits_stride,
    n,
    SCALE: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    EXPERTS: tl.constexpr,
    RANKS: tl.constexpr,
    SHARED: tl.constexpr,
    MIXES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = rows < n
    omega = shapley(logits, rows, logits_stride, live, K, EXPERTS, WIDE)
    if MIXES:
        m = square(interaction, K, EXPERTS, WIDE)
        omega = tl.sum(omega[:, None, :] * m[None, :, :], axis=2)
    row, expert, rank = rows[:, None, None], tl.arange(0, EXPERTS)[None, :, None], tl.arange(0, RANKS)[None, None, :]
    inside = live[:, None, None] & (expert < K) & (rank < R)
    column = expert * 0 + rank if SHARED else expert * R + rank
    segment = tl.load(z + row * z_stride + column, mask=inside, other=0).to(WIDE)
    tl.store(h + row * (K * R) + expert * R + rank, segment * (omega * SCALE)[:, :, None], mask=inside)


@triton.jit
def _backward(
    dh,
    z,
    logits,
    interaction,
    dlogits,
    dz,
    of_logits,
    h,
    dm,
    dh_stride,
    z_stride,
    logits_stride,
    n,
    SCALE: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    EXPERTS: tl.constexpr,
    RANKS: tl.constexpr,
    SHARED: tl.constexpr,
    MIXES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    EXTRA: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    rows = program * BLOCK + tl.arange(0, BLOCK)
    live = rows < n
    phi = shapley(logits, rows, logits_stride, live, K, EXPERTS, WIDE)
    omega = phi
    if MIXES:
        m = square(interaction, K, EXPERTS, WIDE)
        omega = tl.sum(phi[:, None, :] * m[None, :, :], axis=2)
    row, expert, rank = rows[:, None, None], tl.arange(0, EXPERTS)[None, :, None], tl.arange(0, RANKS)[None, None, :]
    inside = live[:, None, None] & (expert < K) & (rank < R)
    column = expert * 0 + rank if SHARED else expert * R + rank
    segment = tl.load(z + row * z_stride + column, mask=inside, other=0).to(WIDE)
    d = tl.load(dh + row * dh_stride + expert * R + rank, mask=inside, other=0).to(WIDE)

    weight = (omega * SCALE)[:, :, None]
    tl.store(h + row * (K * R) + expert * R + rank, segment * weight, mask=inside)
    if SHARED:
        rank = tl.arange(0, RANKS)[None, :]
        tl.store(dz + rows[:, None] * R + rank, tl.sum(d * weight, axis=1), mask=live[:, None] & (rank < R))
    else:
        tl.store(dz + row * (K * R) + expert * R + rank, d * weight, mask=inside)

    domega = tl.sum(d * segment, axis=2) * SCALE  # [BLOCK, EXPERTS]
    dphi = domega
    if MIXES:
        # Rows past n add nothing: their d is 0.
        by_pair = tl.sum(domega[:, :, None] * phi[:, None, :], axis=0)  # [EXPERTS, EXPERTS]
        i, j = tl.arange(0, EXPERTS)[:, None], tl.arange(0, EXPERTS)[None, :]
        tl.store(dm + program * (K * K) + i * K + j, by_pair, mask=(i < K) & (j < K))
        dphi = tl.sum(domega[:, :, None] * m[None, :, :], axis=1)
    ds = phi * (dphi - tl.sum(dphi * phi, axis=1)[:, None])
    expert = tl.arange(0, EXPERTS)[None, :]
    at, inside = rows[:, None] * K + expert, live[:, None] & (expert < K)
    if EXTRA:
        ds += tl.load(dlogits + at, mask=inside, other=0).to(WIDE)
    tl.store(of_logits + at, ds, mask=inside)
