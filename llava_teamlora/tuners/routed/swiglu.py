"""SwiGLU, ``silu(gate) * up``, with its gradients written out, for forms that keep gate and up alone.

In: the two halves of a gated MLP, ``[N, D]``, of one dtype, a row a token. On CUDA a kernel does each of the two
functions in one pass over memory; the plain operations here are its reference.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_teamlora.kernels import usable


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``, ``[N, D]``."""
    if usable(gate):
        from llava_teamlora.kernels import swiglu as kernels

        return kernels.swiglu(gate, up)
    return F.silu(gate).mul_(up)


def swiglu_backward(dh: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Go back through SwiGLU.

    Args:
        dh: gradient of its output, ``[N, D]``; it is overwritten.
        gate: its input, as is `up`; both stay as they are.

    Returns:
        Gradients of `gate` and of `up` (in the memory of `dh`), and the output again, which the gradient of the weight
        that reads it needs.
    """
    if usable(gate):
        from llava_teamlora.kernels import swiglu as kernels

        return kernels.swiglu_backward(dh, gate, up)
    dsilu = dh * up
    dgate = torch.ops.aten.silu_backward.grad_input(dsilu, gate, grad_input=dsilu)  # memory is what costs here
    silu = F.silu(gate)
    dup = dh.mul_(silu)
    return dgate, dup, silu.mul_(up)
