"""Which benchmarks can be run with the files that are there, and what the others lack. Imports no torch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
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
        absent_inputs: files that are not there either, and only ``evaluate build`` reads to make those of ``absent``.
        error: why it cannot be loaded; None if it can.
        questions: how many were loaded.
        data_sha256: tells editions apart; None if nothing was loaded.
        pictures: different pictures that the questions are about.
        absent_pictures: those of them whose file is not there.
        empty_pictures: those of them whose file has 0 bytes.
    """

    name: str
    absent: tuple[Need, ...] = ()
    absent_inputs: tuple[Need, ...] = ()
    error: str | None = None
    questions: int = 0
    data_sha256: str | None = None
    pictures: int = 0
    absent_pictures: tuple[Path, ...] = ()
    empty_pictures: tuple[Path, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it can be answered, and scored or exported."""
        return not (self.absent or self.error or self.absent_pictures or self.empty_pictures)

    def plain(self) -> dict[str, Any]:
        """As JSON; of absent and empty pictures their number and the first few."""
        return {
            "ready": self.ready,
            "questions": self.questions,
            "data_sha256": self.data_sha256,
            "pictures": self.pictures,
            "absent_pictures": _few(self.absent_pictures),
            "empty_pictures": _few(self.empty_pictures),
            "absent": [{**_plain(need), "built": need.built} for need in self.absent],
            "absent_inputs": [_plain(need) for need in self.absent_inputs],
            "error": self.error,
        }


def _few(paths: Sequence[Path]) -> dict[str, Any]:
    return {"count": len(paths), "first": [str(path) for path in paths[:3]]}


def _plain(need: Need) -> dict[str, str]:
    return {"path": str(need.path), "what": need.what, "source": need.source}


def load_samples(benchmark: Benchmark, data_root: Path | None = None) -> list[Sample]:
    """All samples of a benchmark, which must be some.

    Raises:
        UserError: see ``Benchmark.load``, where files are not there with what lists their sources; or there are none.
    """
    try:
        return _load(benchmark, data_root)
    except UserError as error:
        if not _lacks_data(benchmark, data_root):
            raise
        flag = "" if data_root is None else f" --data_root {data_root}"
        command = f"llava-teamlora evaluate check {benchmark.name}{flag}"
        raise UserError(f"{error}; {command} lists what it needs and where to get it") from error


def _lacks_data(benchmark: Benchmark, data_root: Path | None) -> bool:
    try:
        return any(not need.pictures for need in _absent(benchmark.needs(data_root)))
    except UserError:
        return False


def _load(benchmark: Benchmark, data_root: Path | None) -> list[Sample]:
    samples = benchmark.load(data_root)
    if not samples:
        files = "; ".join(f"{n.path} from {n.source}" for n in benchmark.needs(data_root) if not n.pictures)
        raise UserError(f"{benchmark.name}: its files hold no questions; get them whole: {files}")
    return samples


def check(benchmark: Benchmark, data_root: Path | None = None) -> Checked:
    """Look at a benchmark's files and load it."""
    try:
        absent = _absent(benchmark.needs(data_root))
    except UserError as error:
        return Checked(benchmark.name, error=str(error))
    inputs = tuple(dict.fromkeys(i for need in absent for i in _absent(need.made_from) if i not in absent))
    try:
        samples = _load(benchmark, data_root)
    except UserError as error:
        return Checked(benchmark.name, absent, inputs, str(error))
    pictures = look_for_pictures(samples)
    return Checked(
        benchmark.name,
        absent,
        inputs,
        questions=len(samples),
        data_sha256=data_sha256(samples),
        pictures=pictures.count,
        absent_pictures=tuple(sorted(pictures.absent)),
        empty_pictures=tuple(sorted(pictures.empty)),
    )


def _absent(needs: Iterable[Need]) -> tuple[Need, ...]:
    return tuple(need for need in needs if not need.path.exists())


@dataclass(frozen=True)
class Pictures:
    """The different pictures that questions are about.

    Attributes:
        count: of all.
        absent: files that are not there.
        empty: files of 0 bytes, as a copy that broke off or a full disk leaves them.
    """

    count: int
    absent: tuple[Path, ...]
    empty: tuple[Path, ...]


def look_for_pictures(samples: Iterable[Sample]) -> Pictures:
    """Look for every picture file, by listing each folder once."""
    pictures = dict.fromkeys(sample.image for sample in samples if sample.image is not None)
    files = [picture for picture in pictures if isinstance(picture, Path)]
    wanted: dict[Path, set[str]] = defaultdict(set)
    for path in files:
        wanted[path.parent].add(path.name)
    sizes = {folder: _sizes(folder, names) for folder, names in wanted.items()}
    absent = tuple(path for path in files if path.name not in sizes[path.parent])
    empty = tuple(path for path in files if sizes[path.parent].get(path.name) == 0)
    return Pictures(len(pictures), absent, empty)


def _sizes(folder: Path, names: Collection[str]) -> dict[str, int]:
    """Sizes of those of the files that are there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.name in names and entry.is_file()}
    except OSError:
        return {}
