"""What there is on this machine, without judging it.

In: the machine. Out: :class:`Facts`. Nothing is written, and but for one request to the hub nothing leaves the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from llava_teamlora.machine import DeviceMemory, host_memory

DISTRIBUTION = "llava-teamlora"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Package:
    """One dependency.

    Attributes:
        name: as it is installed.
        wanted: range of versions, such as ``>=2.11,<3``; empty for any.
        installed: its version; None where it is absent.
        extra: extra of ours that brings it; None for what everything needs.
        fits: whether the installed version is in the range.
    """

    name: str
    wanted: str
    installed: str | None
    extra: str | None
    fits: bool


@dataclass(frozen=True)
class Gpu:
    """One CUDA device as torch sees it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Disk:
    """A place that a training writes to or reads from.

    Attributes:
        use: what for.
        path: the nearest folder that exists.
        free_bytes: room.
        rotates: whether it is a hard disk; None where the system does not say.
    """

    use: str
    path: str
    free_bytes: int
    rotates: bool | None = None


@dataclass(frozen=True)
class Facts:
    """What there is.

    Attributes:
        python: its version.
        packages: of ours; None where we are not installed and no range is known.
        torch_cuda: CUDA that torch was built for; None for a CPU build.
        torch_problem: why torch cannot be used; empty if it can.
        gpus: that torch can use.
        driver: of NVIDIA's GPUs, where its tool answers.
        driver_gpus: their names, whether or not torch can use them.
        bf16: whether the first GPU computes in bfloat16.
        attention: what ``--attn_implementation auto`` is in half precision; empty without torch.
        compiler: path of g++ (or ``$CXX``).
        launchers: those found: torchrun, deepspeed.
        cores: this process may use.
        omp_threads: ``OMP_NUM_THREADS``.
        memory: of the host.
        shared_memory_bytes: size of ``/dev/shm``; None where there is none.
        disks: places that matter.
        hub: empty if the hub answers, else why not.
        offline: variables that keep away from the hub.
    """

    python: tuple[int, int, int]
    packages: tuple[Package, ...] | None
    torch_cuda: str | None = None
    torch_problem: str = ""
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_gpus: tuple[str, ...] = ()
    bf16: bool = False
    attention: str = ""
    compiler: str | None = None
    launchers: tuple[str, ...] = ()
    cores: int = 1
    omp_threads: str | None = None
    memory: DeviceMemory | None = None
    shared_memory_bytes: int | None = None
    disks: tuple[Disk, ...] = ()
    hub: str = ""
    offline: tuple[str, ...] = field(default=())


def gather(output_dir: str | None = None, environment: Mapping[str, str] = os.environ) -> Facts:
    """Look at this machine.

    Args:
        output_dir: a run folder to be; None looks at the present folder alone.
        environment: variables.
    """
    torch_cuda, torch_problem, gpus, bf16, attention = _torch()
    driver, driver_gpus = _driver()
    offline = tuple(name for name in _OFFLINE if environment.get(name, "").lower() in ("1", "true", "yes", "on"))
    return Facts(
        python=sys.version_info[:3],
        packages=packages(),
        torch_cuda=torch_cuda,
        torch_problem=torch_problem,
        gpus=gpus,
        driver=driver,
        driver_gpus=driver_gpus,
        bf16=bf16,
        attention=attention,
        compiler=shutil.which(environment.get("CXX", "g++")),
        launchers=tuple(name for name in ("torchrun", "deepspeed") if shutil.which(name)),
        cores=_cores(),
        omp_threads=environment.get("OMP_NUM_THREADS"),
        memory=host_memory(),
        shared_memory_bytes=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        disks=_disks(output_dir),
        hub="" if offline else _hub(),
        offline=offline,
    )


def packages() -> tuple[Package, ...] | None:
    """Our dependencies with the ranges that our installed metadata names; None where we are not installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    found = {}
    for requirement in map(Requirement, lines):
        extra = _extra(requirement)
        if extra == "dev" or (requirement.marker and not requirement.marker.evaluate({"extra": extra or ""})):
            continue
        found.setdefault(requirement.name, _package(requirement, extra))
    return tuple(found.values())


def _extra(requirement: Requirement) -> str | None:
    """The extra that a requirement belongs to."""
    if requirement.marker is None or "extra" not in str(requirement.marker):
        return None
    return str(requirement.marker).rpartition("extra ==")[2].strip(" \"')")


def _package(requirement: Requirement, extra: str | None) -> Package:
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        installed = None
    fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    wanted = ",".join(sorted(map(str, requirement.specifier), reverse=True))  # the lower bound first
    return Package(requirement.name, wanted, installed, extra, fits)


def _torch() -> tuple[str | None, str, tuple[Gpu, ...], bool, str]:
    """CUDA version, problem, GPUs, bfloat16, attention."""
    try:
        import torch

        from llava_teamlora.models.build import resolve_attention
    except (ImportError, OSError) as error:
        return None, " ".join(str(error).split()), (), False, ""
    half = torch.bfloat16
    if not torch.cuda.is_available():
        return torch.version.cuda, "", (), False, resolve_attention("auto", half)
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = tuple(Gpu(gpu.name, gpu.total_memory, (gpu.major, gpu.minor)) for gpu in found)
    return torch.version.cuda, "", gpus, torch.cuda.is_bf16_supported(), resolve_attention("auto", half)


def _driver() -> tuple[str | None, tuple[str, ...]]:
    """NVIDIA's driver and the names of its GPUs, as its own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, ()
    command = [tool, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, ()
    lines = [line.partition(",") for line in output.splitlines() if "," in line]
    return (lines[0][0].strip() if lines else None), tuple(name.strip() for _, _, name in lines)


def _cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disks(output_dir: str | None) -> tuple[Disk, ...]:
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"run folder": output_dir} if output_dir else {"here": "."}
    places.update({"hub cache": HF_HUB_CACHE, "temporary files": tempfile.gettempdir()})
    return tuple(_disk(use, Path(path)) for use, path in places.items())


def _disk(use: str, path: Path) -> Disk:
    path = path.expanduser().resolve()
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return Disk(use, str(there), shutil.disk_usage(there).free, _rotates(there))


def _rotates(folder: Path) -> bool | None:
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for place in (block, block / ".."):  # a partition's disk is its parent
        try:
            return (place / "queue" / "rotational").read_text(encoding="ascii").strip() == "1"
        except OSError:
            continue
    return None


def _hub() -> str:
    """Empty if the hub answers, else why not."""
    from huggingface_hub.constants import ENDPOINT

    try:
        request = urllib.request.Request(ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answers
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
