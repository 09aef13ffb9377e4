"""One decoding step after its packed GEMV: routing, weighting and B in one kernel.

The reference is `expand` of tuners/routed/packed.py. A program makes some columns of one token's output, and does the
routing, a few hundred operations, again for itself. Under torch.compile it is one opaque operator, which a CUDA graph
may hold.
"""

# Inside of its functions triton has a language of its own; and it need not be installed.
# pyright: reportArgumentType=false, reportMissingImports=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOptionalOperand=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from llava_teamlora.kernels import LARGEST, power_of_2


def expand(y: Tensor, z: Tensor, logits: Tensor, b: Tensor, interaction: Tensor | None, r: int) -> Tensor:
    """Add ``h B^T`` to the base's part, for G linears that read the same input.

    Args:
        y: the base's part, ``[G, N, D_out]``; the columns of a row lie side by side, here and in `z` and `logits`.
        z: ``[G, N, k * r]``; ``[G, N, r]`` where all experts share A.
        logits: ``[G, N, k]``.
        b: ``[G, k * r, D_out]``, contiguous; alpha / r is in it.
        interaction: M of each, transposed, ``[G, k, k]``; None where all are the identity.
        r: rank of one expert.

    Returns:
        ``[G, N, D_out]``.
    """
    call = _operator if torch.compiler.is_compiling() else _expand
    return call(y, z, logits, b, interaction, r)


def _expand(y: Tensor, z: Tensor, logits: Tensor, b: Tensor, interaction: Tensor | None, r: int) -> Tensor:
    groups, n, d_out = y.shape
    k, width = logits.shape[2], b.shape[1]
    columns_in = power_of_2(width)
    columns_out = max(1, min(32, LARGEST // columns_in))
    out = torch.empty((groups, n, d_out), dtype=y.dtype, device=y.device)
    if not out.numel():
        return out
    m = None if interaction is None else interaction.contiguous()
    with torch.cuda.device_of(y):
        _kernel[(triton.cdiv(d_out, columns_out), n, groups)](
            *(y, z, logits, b, m, out),
            *(y.stride(0), y.stride(1), z.stride(0), z.stride(1), logits.stride(0), logits.stride(1)),
            d_out,
            K=k,
            R=r,
            EXPERTS=power_of_2(k),
            WIDTH=width,
            COLUMNS_IN=columns_in,
            SHARED=z.shape[2] == r,
            MIXES=interaction is not None,
            WIDE=tl.float64 if y.dtype == torch.float64 else tl.float32,
            COLUMNS_OUT=columns_out,
        )
    return out


_operator = torch.library.custom_op("llava_teamlora::expand", _expand, mutates_args=())


@_operator.register_fake
def _(y: Tensor, z: Tensor, logits: Tensor, b: Tensor, interaction: Tensor | None, r: int) -> Tensor:
    return y.new_empty(y.shape)


@triton.jit
def _kernel(
    y,
    z,
    logits,
    b,
    interaction,
    out,
    y_group,
    y_token,
    z_group,
    z_token,
    logits_group,
    logits_token,
    d_out,
    K: tl.constexpr,
    R: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS_IN: tl.constexpr,
    SHARED: tl.constexpr,
    MIXES: tl.constexpr,
    WIDE: tl.constexpr,
    COLUMNS_OUT: tl.constexpr,
):
    token, group = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    logits += token * logits_token + group * logits_group
    expert = tl.arange(0, EXPERTS)
    s = tl.load(logits + expert, mask=expert < K, other=0).to(WIDE)
    s = tl.where(expert < K, s, -float("inf"))
    largest = tl.max(s, axis=0)
    e = tl.exp(s - largest)
    total = tl.sum(e, axis=0)

    column = tl.arange(0, COLUMNS_IN)
    owner, live = column // R, column < WIDTH
    if MIXES:
        at = interaction + group * K * K + expert[None, :] * K + owner[:, None]
        m = tl.load(at, mask=live[:, None] & (expert < K)[None, :], other=0).to(WIDE)
        omega = tl.sum(m * (e / total)[None, :], axis=1)
    else:
        omega = tl.exp(tl.load(logits + owner, mask=live, other=0).to(WIDE) - largest) / total
    segment = column % R if SHARED else column
    h = tl.load(z + token * z_token + group * z_group + segment, mask=live, other=0).to(WIDE) * omega

    to = tl.program_id(0) * COLUMNS_OUT + tl.arange(0, COLUMNS_OUT)
    inside = to < d_out
    at = b + (group * WIDTH + column[:, None]) * d_out + to[None, :]
    up = tl.load(at, mask=live[:, None] & inside[None, :], other=0).to(WIDE)
    base = tl.load(y + token * y_token + group * y_group + to, mask=inside, other=0).to(WIDE)
    result = base + tl.sum(h[:, None] * up, axis=0)
    tl.store(out + (group * tl.num_programs(1) + token) * d_out + to, result, mask=inside)
