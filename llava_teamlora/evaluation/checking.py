"""Which benchmarks can be run with the files that are there, and what the others lack. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import data_sha256
from llava_teamlora.evaluation.types import Benchmark, Need, Sample


@dataclass(frozen=True)
class Checked:
    """What there is of one benchmark.

    Attributes:
        name: of the benchmark.
        absent: files and folders it needs that are not there.
        error: why it cannot be loaded; None if it can.
        questions: how many were loaded.
        data_sha256: tells editions apart; None if nothing was loaded.
        pictures: different pictures that the questions are about.
        absent_pictures: those of them whose file is not there.
    """

    name: str
    absent: tuple[Need, ...] = ()
    error: str | None = None
    questions: int = 0
    data_sha256: str | None = None
    pictures: int = 0
    absent_pictures: tuple[Path, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it can be answered, and scored or exported."""
        return not (self.absent or self.error or self.absent_pictures)

    def plain(self) -> dict[str, Any]:
        """As JSON; of the absent pictures their number and the first few."""
        return {
            "ready": self.ready,
            "questions": self.questions,
            "data_sha256": self.data_sha256,
            "pictures": self.pictures,
            "absent_pictures": {
                "count": len(self.absent_pictures),
                "first": [str(p) for p in self.absent_pictures[:3]],
            },
            "absent": [
                {"path": str(need.path), "what": need.what, "source": need.source, "built": need.built}
                for need in self.absent
            ],
            "error": self.error,
        }


def check(benchmark: Benchmark, data_root: Path | None = None) -> Checked:
    """Look at a benchmark's files and load it."""
    try:
        absent = tuple(need for need in benchmark.needs(data_root) if not need.path.exists())
        samples = benchmark.load(data_root)
    except UserError as error:
        return Checked(benchmark.name, _needed(benchmark, data_root), str(error))
    pictures, lacking = look_for_pictures(samples)
    return Checked(benchmark.name, absent, None, len(samples), data_sha256(samples), pictures, tuple(sorted(lacking)))


def _needed(benchmark: Benchmark, data_root: Path | None) -> tuple[Need, ...]:
    """What is absent of a benchmark that cannot be loaded; nothing where that cannot be told either."""
    try:
        return tuple(need for need in benchmark.needs(data_root) if not need.path.exists())
    except UserError:
        return ()


def look_for_pictures(samples: Iterable[Sample]) -> tuple[int, list[Path]]:
    """How many different pictures there are, and the files among them that are absent."""
    pictures = {sample.image for sample in samples if sample.image is not None}
    return len(pictures), [picture for picture in pictures if isinstance(picture, Path) and not picture.is_file()]
