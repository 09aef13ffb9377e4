"""Facts -> findings: what is well, what is to be watched, what stops a training, each with its remedy.

In: :class:`Facts`. Out: rows. Nothing is looked at here, so that every finding can be had from made-up facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llava_teamlora.doctor.facts import DISTRIBUTION, Disk, Facts, Package

GIB = 2**30

Status = Literal["ok", "warning", "problem"]
"""``problem``: a training cannot run like this. ``warning``: it can, but slower or with less than it might."""

LEAST_PYTHON = (3, 10)
LEAST_FREE_BYTES = 1 * GIB
SHARED_MEMORY_BYTES = 1 * GIB
A_7B_MODEL_BYTES = 16 * GIB
FEW_CORES = 4


@dataclass(frozen=True)
class Finding:
    """One row.

    Attributes:
        status: see :data:`Status`.
        subject: what was looked at.
        found: what was found.
        remedy: what to do; empty where nothing is.
    """

    status: Status
    subject: str
    found: str
    remedy: str = ""


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they matter."""
    found: list[Finding] = []
    for look in _LOOKS:
        found += look(facts)
    return found


def stops(findings: list[Finding]) -> bool:
    """Whether a training cannot run."""
    return any(finding.status == "problem" for finding in findings)


def _python(facts: Facts) -> list[Finding]:
    version = ".".join(map(str, facts.python))
    if facts.python < LEAST_PYTHON:
        return [Finding("problem", "Python", version, f"install {'.'.join(map(str, LEAST_PYTHON))} or newer")]
    return [Finding("ok", "Python", version)]


def _packages(facts: Facts) -> list[Finding]:
    if facts.packages is None:
        remedy = f"pip install -e . in a clone of {DISTRIBUTION}, so that versions can be checked"
        return [Finding("warning", DISTRIBUTION, "not installed, run from its source", remedy)]
    return [_package(package) for package in facts.packages]


def _package(package: Package) -> Finding:
    wanted = f" ({package.wanted})" if package.wanted else ""
    if package.installed is None:
        if package.extra is None:
            remedy = f"pip install '{package.name}{package.wanted}'"
            return Finding("problem", package.name, f"absent{wanted}", remedy)
        use = f"only for {_USES.get(package.extra, package.extra)}: pip install '{DISTRIBUTION}[{package.extra}]'"
        return Finding("ok", package.name, "absent", use)
    if package.fits:
        return Finding("ok", package.name, package.installed + wanted)
    status: Status = "problem" if package.extra is None else "warning"
    remedy = f"pip install '{package.name}{package.wanted}'"
    return Finding(status, package.name, f"{package.installed}, not in {package.wanted}", remedy)


_USES = {
    "train": "DeepSpeed",
    "flash": "FlashAttention-2 on a GPU",
    "quant": "--bits 4 and 8",
    "chat": "the chat page",
    "eval": "some benchmarks",
}
"""Extras in words."""


def _gpu(facts: Facts) -> list[Finding]:
    if facts.torch_problem:
        return [Finding("problem", "import torch", facts.torch_problem, "install torch anew, alone and first")]
    if facts.gpus:
        return [_usable_gpu(facts, index) for index in range(len(facts.gpus))]
    if facts.driver_gpus:
        there = f"{facts.driver_gpus[0]} is there (driver {facts.driver}), but torch does not use it"
        if facts.torch_cuda is None:
            remedy = "this torch is a CPU build: pip uninstall torch, then install one for CUDA"
        else:
            remedy = (
                f"torch is built for CUDA {facts.torch_cuda}: look at CUDA_VISIBLE_DEVICES, and whether the driver is "
                "new enough for it (nvidia-smi names the newest CUDA it knows)"
            )
        return [Finding("warning", "GPU", there, remedy)]
    remedy = "a CPU trains the embedded example in minutes; a 7B model needs a GPU"
    return [Finding("warning", "GPU", "none: everything runs on the CPU", remedy)]


def _usable_gpu(facts: Facts, index: int) -> Finding:
    gpu = facts.gpus[index]
    capability = f"{gpu.capability[0]}.{gpu.capability[1]}"
    found = f"{gpu.name}, {gpu.memory_bytes / GIB:.1f} GiB, compute capability {capability}, CUDA {facts.torch_cuda}"
    subject = f"GPU {index}"
    if not facts.bf16:
        return Finding("warning", subject, f"{found}; no bfloat16, no TF32", "--fp16 True and --tf32 False")
    tf32 = "bfloat16 and TF32" if gpu.capability >= (8, 0) else "bfloat16, no TF32"
    return Finding("ok", subject, f"{found}; {tf32}")


def _attention(facts: Facts) -> list[Finding]:
    if not facts.attention:
        return []
    if facts.attention == "flash_attention_2":
        return [Finding("ok", "attention", "auto is FlashAttention-2")]
    if not facts.gpus:
        return [Finding("ok", "attention", "auto is sdpa: there is no GPU for FlashAttention-2")]
    remedy = f"pip install '{DISTRIBUTION}[flash]'"
    return [Finding("warning", "attention", "auto is sdpa: flash-attn is not installed; slower at long texts", remedy)]


def _deepspeed(facts: Facts) -> list[Finding]:
    installed = any(p.name == "deepspeed" and p.installed for p in facts.packages or ())
    if not installed:
        return []
    if facts.compiler is None:
        remedy = "install g++ (Debian, Ubuntu: apt-get install g++): DeepSpeed compiles parts of itself when first used"
        return [Finding("warning", "DeepSpeed", "no C++ compiler", remedy)]
    if "deepspeed" not in facts.launchers and "torchrun" not in facts.launchers:
        remedy = "put the environment's bin folder into PATH (activate it)"
        return [Finding("warning", "DeepSpeed", "neither torchrun nor deepspeed in PATH", remedy)]
    return [Finding("ok", "DeepSpeed", f"compiler {facts.compiler}; started by {', '.join(facts.launchers)}")]


def _disks(facts: Facts) -> list[Finding]:
    return [_disk(disk) for disk in facts.disks]


def _disk(disk: Disk) -> Finding:
    subject = f"disk: {disk.use}"
    found = f"{disk.free_bytes / GIB:.1f} GiB free at {disk.path}"
    if disk.free_bytes < LEAST_FREE_BYTES:
        return Finding("problem", subject, found, _ELSEWHERE.get(disk.use, "make room"))
    if disk.use == "hub cache" and disk.free_bytes < A_7B_MODEL_BYTES:
        return Finding("warning", subject, f"{found}; a 7B model is 14 GiB", _ELSEWHERE["hub cache"])
    if disk.rotates and disk.use in _DATA_PLACES:
        remedy = "many small pictures are read slowly from a hard disk: keep them on an SSD, raise "
        return Finding("warning", subject, f"{found}, says it is a hard disk", remedy + "--dataloader_num_workers")
    return Finding("ok", subject, found)


_DATA_PLACES = ("here", "run folder")
_ELSEWHERE = {
    "hub cache": "make room, or set HF_HOME to another disk",
    "temporary files": "make room, or set TMPDIR to another disk",
    "run folder": "make room, or choose another --output_dir",
}


def _processor(facts: Facts) -> list[Finding]:
    cores = f"{facts.cores} core{'s' if facts.cores != 1 else ''}"
    threads = facts.omp_threads
    if threads is not None and (not threads.isdecimal() or int(threads) > facts.cores):
        return [Finding("warning", "CPU", f"{cores}, OMP_NUM_THREADS={threads}", f"OMP_NUM_THREADS={facts.cores}")]
    if threads == "1" and facts.cores > 1 and not facts.gpus:
        return [Finding("warning", "CPU", f"{cores}, but OMP_NUM_THREADS=1 uses one", "unset OMP_NUM_THREADS")]
    if facts.gpus and facts.cores < FEW_CORES * len(facts.gpus):
        remedy = f"ask for {FEW_CORES} cores a GPU: pictures are decoded on the CPU"
        return [Finding("warning", "CPU", f"{cores} for {len(facts.gpus)} GPU(s)", remedy)]
    return [Finding("ok", "CPU", cores + (f", OMP_NUM_THREADS={threads}" if threads else ""))]


def _memory(facts: Facts) -> list[Finding]:
    found = []
    if facts.memory is not None:
        found.append(Finding("ok", "memory", f"{facts.memory.total_bytes / GIB:.1f} GiB"))
    size = facts.shared_memory_bytes
    if size is not None and size < SHARED_MEMORY_BYTES:
        remedy = "give a container more (docker run --shm-size 8g), or --dataloader_num_workers 0"
        found.append(Finding("warning", "/dev/shm", f"{size / 2**20:.0f} MiB: loader workers may die of it", remedy))
    elif size is not None:
        found.append(Finding("ok", "/dev/shm", f"{size / GIB:.1f} GiB"))
    return found


def _hub(facts: Facts) -> list[Finding]:
    if facts.offline:
        found = f"not asked: {', '.join(facts.offline)} set"
        return [Finding("ok", "model hub", found, "models must be folders, or in the hub cache")]
    if facts.hub:
        remedy = "models must be folders or in the hub cache; HF_HUB_OFFLINE=1 spares the waiting"
        return [Finding("warning", "model hub", f"out of reach ({facts.hub})", remedy)]
    return [Finding("ok", "model hub", "answers")]


_LOOKS: tuple[Callable[[Facts], list[Finding]], ...] = (
    _python, _packages, _gpu, _attention, _deepspeed, _processor, _memory, _disks, _hub,
)  # fmt: skip
