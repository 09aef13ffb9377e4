"""What the machine says of this process. Imports nothing heavy."""

from __future__ import annotations

import resource
import sys


def peak_memory_mib() -> int:
    """Most memory this process ever held, in MiB: the accelerator's where one is in use, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
