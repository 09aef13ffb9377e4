"""SwiGLU and its gradients, one pass over memory each; the reference is tuners/routed/swiglu.py.

Computed in float32 (float64 for float64 tensors) and rounded once.
"""

# Inside of its functions triton has a language of its own; and it need not be installed.
# pyright: reportArgumentType=false, reportMissingImports=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOptionalOperand=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``; see tuners/routed/swiglu.py. The columns of a row must lie side by side."""
    h = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if h.numel():
        rows, columns = gate.shape
        with torch.cuda.device_of(gate):
            _forward[(rows, triton.cdiv(columns, _BLOCK))](
                gate, up, h, gate.stride(0), up.stride(0), columns, _wide(gate), _BLOCK
            )
    return h


def swiglu_backward(dh: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return dgate, dup (written over `dh`) and h again; see tuners/routed/swiglu.py."""
    dgate, h = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
    if h.numel():
        rows, columns = gate.shape
        with torch.cuda.device_of(gate):
            _backward[(rows, triton.cdiv(columns, _BLOCK))](
                dh, gate, up, dgate, h, dh.stride(0), gate.stride(0), up.stride(0), columns, _wide(gate), _BLOCK
            )
    return dgate, dh, h


def _wide(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _forward(gate, up, h, gate_stride, up_stride, columns, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = at < columns
    g = tl.load(gate + row * gate_stride + at, mask=live, other=0).to(WIDE)
    u = tl.load(up + row * up_stride + at, mask=live, other=0).to(WIDE)
    tl.store(h + row * columns + at, g * _sigmoid(g) * u, mask=live)


@triton.jit
def _backward(
    dh, gate, up, dgate, h, dh_stride, gate_stride, up_stride, columns, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = at < columns
    g = tl.load(gate + row * gate_stride + at, mask=live, other=0).to(WIDE)
    u = tl.load(up + row * up_stride + at, mask=live, other=0).to(WIDE)
    d = tl.load(dh + row * dh_stride + at, mask=live, other=0).to(WIDE)
    sigmoid = _sigmoid(g)
    silu = g * sigmoid
    tl.store(dgate + row * columns + at, d * u * (sigmoid + silu * (1 - sigmoid)), mask=live)
    tl.store(h + row * columns + at, silu * u, mask=live)
    tl.store(dh + row * dh_stride + at, d * silu, mask=live)
