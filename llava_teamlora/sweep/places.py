"""Where a sweep's jobs are done: one GPU each, several, or a share of the CPU's cores."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llava_teamlora.errors import UserError
from llava_teamlora.sweep.runner import Place


@dataclass(frozen=True)
class Devices:
    """What the command line says.

    Attributes:
        gpus: as CUDA_VISIBLE_DEVICES names them; None: all that are visible.
        jobs: at once on the CPU; None: one, and only where there is no GPU.
    """

    gpus: tuple[str, ...] | None = None
    jobs: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Shows a process all of them."""
        if self.gpus is not None:
            return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        return {"CUDA_VISIBLE_DEVICES": ""} if self.jobs is not None else {}


def devices(gpus: str | None, jobs: int | None) -> Devices:
    """Read ``--gpus`` and ``--jobs``.

    Raises:
        UserError: both, or one that names nothing.
    """
    if gpus is not None and jobs is not None:
        raise UserError("--gpus and --jobs: give one of them; on GPUs a job has one of its own, --jobs are the CPU's")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} must be at least 1")
    if gpus is None:
        return Devices(jobs=jobs)
    names = tuple(name.strip() for name in gpus.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--gpus {gpus!r}: name GPUs as 0,1,2, each once")
    return Devices(names)


def make_places(chosen: Devices, visible: int, each: int) -> list[Place]:
    """One place a job that may be done at once.

    Args:
        chosen: by the command line.
        visible: GPUs that a process sees.
        each: GPUs of one job.

    Raises:
        UserError: too few of them.
    """
    if chosen.gpus is not None and visible < len(chosen.gpus):
        raise UserError(
            f"--gpus {','.join(chosen.gpus)}: only {visible} of them can be used (nvidia-smi lists what is here)"
        )
    if visible:
        names = chosen.gpus or _visible(visible)
        groups = [names[i : i + each] for i in range(0, len(names) - each + 1, each)]
        if not groups:
            raise UserError(f"gpus_per_cell: {each}, but there {'is' if visible == 1 else 'are'} {visible} here")
        return [
            Place({"CUDA_VISIBLE_DEVICES": ",".join(group), **threads(len(groups) * each)}, each) for group in groups
        ]
    if each > 1:
        raise UserError(f"gpus_per_cell: {each}, but there is no GPU here")
    jobs = chosen.jobs or 1
    return [Place({"CUDA_VISIBLE_DEVICES": "", **threads(jobs)})] * jobs


def _visible(count: int) -> tuple[str, ...]:
    """Names of the GPUs that a process sees."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = tuple(name.strip() for name in said.split(",")) if said else tuple(map(str, range(count)))
    return names[:count]


def threads(processes: int) -> dict[str, str]:
    """The cores divided among processes; what the environment says of it already holds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = str(max(1, cores // processes))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: each for name in names if name not in os.environ and "OMP_NUM_THREADS" not in os.environ}
