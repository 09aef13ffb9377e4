"""Triton kernels behind the fused forms of tuners/routed: the same sums in one pass over memory.

Optional: they run on CUDA devices where triton is installed (the extra ``kernels``; torch's CUDA wheels bring it), and
``LLAVA_TEAMLORA_TRITON=0`` keeps them off. The plain operations in tuners/routed, which have the same signatures, are
their reference and run everywhere else; under ``torch.compile`` too, which fuses those by itself. Without a CUDA tensor
nothing is imported.
"""

import importlib.util
import os

import torch
from torch import Tensor

LARGEST = 4096
"""Most elements a kernel holds of a token: k * k, and k * r, each factor rounded up to a power of two."""

_INSTALLED = os.environ.get("LLAVA_TEAMLORA_TRITON", "1") != "0" and importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def usable(x: Tensor, *, compiled: bool = False) -> bool:
    """Whether kernels may run on `x`: on CUDA, or anywhere in triton's interpreter.

    Args:
        x: an input. One of another type, a fake one, used to trace, or a sharded one, has plain operations.
        compiled: whether the kernel in question may stand in a graph that torch.compile makes.
    """
    if not _INSTALLED or not (x.is_cuda or (_INTERPRETED and x.is_cpu)):
        return False
    return compiled if torch.compiler.is_compiling() else type(x) is Tensor


def fits(k: int, r: int) -> bool:
    """Whether the kernels hold this many experts of this rank."""
    experts = power_of_2(k)
    return experts * max(experts, power_of_2(r)) <= LARGEST


def power_of_2(n: int) -> int:
    """Return the smallest power of two that is at least `n`, >= 1."""
    return 1 << (n - 1).bit_length()
