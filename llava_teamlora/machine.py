"""What the machine says of this process and of itself. Imports nothing heavy."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path


def peak_memory_mib() -> int:
    """Most memory this process ever held, in MiB: the accelerator's where one is in use, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


@dataclass(frozen=True)
class DeviceMemory:
    """Where a process computes, and how much memory is there.

    Attributes:
        name: of the GPU, or "host memory".
        total_bytes: all of it; a container's limit where that is less.
    """

    name: str
    total_bytes: int


def gpu_memory() -> DeviceMemory | None:
    """Memory of this process's GPU; None where torch is not imported or sees none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return DeviceMemory(properties.name, properties.total_memory)


def host_memory() -> DeviceMemory | None:
    """Memory of this machine, or of the container it is; None where the system does not say."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit.isdecimal():  # "max" is no limit
            total = min(total, int(limit))
    return DeviceMemory("host memory", total)
