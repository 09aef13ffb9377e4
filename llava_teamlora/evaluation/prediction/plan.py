"""What is to be predicted, and what is checked of it before any model is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import data_sha256
from llava_teamlora.evaluation.checking import load_samples, look_for_pictures
from llava_teamlora.evaluation.types import Benchmark, Sample

if TYPE_CHECKING:
    from llava_teamlora.generation import Decoding

Mode = Literal["fast", "paper"]
BATCH_SIZE = 16


@dataclass(frozen=True)
class Plan:
    """What to predict and how.

    Attributes:
        out: folder for the answers.
        batch_size: questions answered at once; None is the mode's own.
        limit: only the first so many questions; None for all.
        overwrite: drop earlier answers instead of going on from them.
        data_root: see ``Benchmark.load``.
        mode: ``fast`` answers in batches, in which what the questions about one picture share is computed once.
            ``paper`` is LLaVA's own way, for figures to be compared with published ones: one question at a time,
            greedily, with the length of answer that LLaVA allows the benchmark.
    """

    out: Path
    batch_size: int | None = None
    limit: int | None = None
    overwrite: bool = False
    data_root: Path | None = None
    mode: Mode = "fast"

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit} must be at least 1")
        if self.mode == "paper" and self.batch_size not in (None, 1):
            raise UserError(f"--batch_size {self.batch_size} is for --mode fast; --mode paper asks one at a time")

    @property
    def at_once(self) -> int:
        """Questions in a batch."""
        return self.batch_size or (1 if self.mode == "paper" else BATCH_SIZE)


@dataclass(frozen=True)
class Job:
    """One benchmark, loaded, with its plan."""

    benchmark: Benchmark
    decoding: Decoding
    plan: Plan
    samples: Sequence[Sample] = field(repr=False)

    @property
    def asked(self) -> Sequence[Sample]:
        """The samples to be answered."""
        return self.samples[: self.plan.limit]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells the benchmark's edition apart, for the manifest."""
        sha256 = data_sha256(self.samples)
        return {"name": self.benchmark.name, "version": self.benchmark.version, "data_sha256": sha256}


def make_job(benchmark: Benchmark, decoding: Decoding, plan: Plan) -> Job:
    """Load a benchmark's samples, and see that decoding, pictures and folder will do.

    Raises:
        UserError: they will not.
    """
    if plan.mode == "paper":
        _check_paper(benchmark, decoding)
    job = Job(benchmark, decoding, plan, load_samples(benchmark, plan.data_root))
    check_pictures(job.asked)
    _check_folder(plan.out)
    return job


def _check_paper(benchmark: Benchmark, decoding: Decoding) -> None:
    """LLaVA's own decoding, or none.

    Raises:
        UserError: another one.
    """
    if decoding.temperature or decoding.num_beams > 1:
        raise UserError("--mode paper is greedy: drop --temperature and --num_beams, or use --mode fast")
    if decoding.max_new_tokens != benchmark.max_new_tokens:
        raise UserError(
            f"--max_new_tokens {decoding.max_new_tokens} is not what LLaVA allows {benchmark.name} "
            f"({benchmark.max_new_tokens}); drop it, or use --mode fast"
        )


def _check_folder(out: Path) -> None:
    """Refuse a folder that cannot be one, or cannot be written to."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is no folder, so no answers can be written into {out}; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: may not be written to, so no answers can go into {out}; choose another --out")


def check_pictures(samples: Sequence[Sample]) -> None:
    """See that every picture file is there and holds something.

    Raises:
        UserError: with the number of those that are missing or empty, and the first.
    """
    found = look_for_pictures(samples)
    if found.absent:
        raise UserError(
            f"{found.absent[0]}: no such picture; {len(found.absent)} of {found.count} pictures are missing "
            "(llava-teamlora evaluate check says where to get them)"
        )
    if found.empty:
        raise UserError(
            f"{found.empty[0]}: has 0 bytes; {len(found.empty)} of {found.count} pictures are empty, get them anew"
        )


def ready(benchmarks: Mapping[str, Benchmark], data_root: Path | None) -> tuple[list[str], dict[str, str]]:
    """What ``all`` stands for.

    Returns:
        Names of the benchmarks whose files are there, and for each of the others what is missing.
    """
    missing = {}
    for name, benchmark in benchmarks.items():
        try:
            absent = [need for need in benchmark.needs(data_root) if not need.path.exists()]
        except UserError as error:
            missing[name] = str(error)
            continue
        if absent:
            task = "build" if all(need.built for need in absent) else "check"
            purpose = {"build": "makes it", "check": "says where to get it"}[task]
            missing[name] = f"{absent[0].path} is missing; llava-teamlora evaluate {task} {name} {purpose}"
    return [name for name in benchmarks if name not in missing], missing
