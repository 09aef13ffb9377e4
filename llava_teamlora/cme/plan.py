"""What a build shall do, and which files it reads: all that is missing is said at once, before any row is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.cme.leaks import REASONS, Asked, Reason
from llava_teamlora.cme.sources.source import DATA_ROOT, MixSource
from llava_teamlora.cme.survey import Dedup
from llava_teamlora.cme.texts import digest
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import not_empty
from llava_teamlora.evaluation.cme.task import Source, TextTask
from llava_teamlora.evaluation.reading import EVAL_ROOT

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Options:
    """How to build; see ``llava-teamlora cme build --help``."""

    out: Path
    data_root: Path = DATA_ROOT
    eval_root: Path = EVAL_ROOT
    scale: int = 100
    seed: int = 0
    paraphrases: Literal["all", "one"] = "all"
    dedup: Dedup = "record"
    leaks: Literal["drop", "keep", "refuse"] = "drop"
    leak_reasons: tuple[Reason, ...] = REASONS
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    skip_missing: bool = False
    skip_missing_eval: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Input:
    """A set of the mix, and where its files are.

    Attributes:
        source: the set.
        cap: the most rows it may bring.
        files: those that are there, each with its group.
        missing: what is not there.
    """

    source: MixSource
    cap: int
    files: list[tuple[Path, str]]
    missing: list[Source]

    @property
    def instructions(self) -> tuple[str, ...]:
        """What its rows' instructions are drawn from."""
        return self.source.form.instructions


@dataclass(frozen=True)
class Evaluation:
    """A task's files of evaluation.

    Attributes:
        task: the task.
        files: those that are there, each with its source.
        missing: what is not there.
    """

    task: TextTask
    files: list[tuple[Path, Source]]
    missing: list[Source]

    def items(self) -> Iterator[Asked]:
        """Its items, by their texts."""
        for path, source in self.files:
            for item in not_empty(self.task.items(path, source.group), path):
                if item.answers:
                    yield Asked(f"{self.task.name}: {item.where}", item.texts)


@dataclass(frozen=True)
class Plan:
    """All that a build follows from."""

    options: Options
    inputs: list[Input]
    evaluations: list[Evaluation]

    def made_from(self) -> dict[str, Any]:
        """What the mix's bytes follow from, as JSON: with the same again the same comes out."""
        options = self.options
        return {
            "seed": options.seed,
            "scale": options.scale,
            "paraphrases": options.paraphrases,
            "dedup": options.dedup,
            "leaks": options.leaks,
            "leak_reasons": list(options.leak_reasons),
            "on_bad_row": options.on_bad_row,
            "caps": {given.source.name: given.cap for given in self.inputs},
            "forms": {
                given.source.name: f"{given.source.form.version}, instructions {digest(given.instructions):016x}"
                for given in self.inputs
            },
            "tasks": {given.task.name: given.task.version for given in self.evaluations},
            "files": {str(path.resolve()): _state(path) for path in self._paths()},
        }

    def holds(self, path: Path) -> Path | None:
        """The file, or folder, that is read and is that path or holds it."""
        place = path.resolve()
        return next((own for own in self._paths() if own.resolve() in (place, *place.parents)), None)

    def _paths(self) -> list[Path]:
        training = [path for given in self.inputs for path, _ in given.files]
        return training + [path for given in self.evaluations for path, _ in given.files]


def make_plan(
    options: Options, sources: Sequence[MixSource], caps: Mapping[str, int], tasks: Sequence[TextTask]
) -> Plan:
    """Look for all files.

    Args:
        options: how to build.
        sources: the sets of the mix.
        caps: of some of them; others have their own.
        tasks: whose evaluation items no row may hold.

    Raises:
        UserError: files are missing, and it was not asked to leave them out; or none is there.
    """
    inputs = [Input(source, caps.get(source.name, source.cap), *source.find(options.data_root)) for source in sources]
    evaluations = [_evaluation(task, options.eval_root / task.folder) for task in tasks]
    lines = []
    if not options.skip_missing:
        lines += [_line("train on", options.data_root / i.source.name, s) for i in inputs for s in i.missing]
    if lines:
        lines.append("  --skip_missing builds a mix without them; --only names the sets it shall have")
    unchecked = [(given, source) for given in evaluations for source in given.missing]
    if unchecked and not options.skip_missing_eval:
        lines += [_line("compare with", options.eval_root / given.task.folder, source) for given, source in unchecked]
        lines.append("  --skip_missing_eval builds a mix that is not compared with these; the manifest says so")
    if lines:
        raise UserError("\n".join(["files are missing:", *lines]))
    inputs = [given for given in inputs if given.files]
    if not inputs:
        raise UserError(f"{options.data_root}: holds no file of any set; llava-teamlora cme sources lists what is read")
    return Plan(options, inputs, evaluations)


def _line(purpose: str, folder: Path, source: Source) -> str:
    return f"  to {purpose}: {folder / source.paths[0]} ({source.what}); from {source.origin}"


def _evaluation(task: TextTask, folder: Path) -> Evaluation:
    found = [(path, source) for source in task.tests for path in source.find(folder)]
    return Evaluation(task, found, [source for source in task.tests if not source.find(folder)])


def _members(path: Path) -> list[Path]:
    """The file itself, or all files in the folder, however deep."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _state(path: Path) -> list[int]:
    """What changes when a file or a folder's files do: how many, bytes, time of the last change in nanoseconds."""
    stats = [file.stat() for file in _members(path)]
    return [len(stats), sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)]


def sha256(path: Path) -> str:
    """Of a file; of a folder, that of its files' names and digests.

    Raises:
        UserError: unreadable.
    """
    try:
        if not path.is_dir():
            return _file_sha256(path)
        lines = (f"{_file_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in _members(path))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _file_sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
