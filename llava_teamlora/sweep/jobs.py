"""A sweep's jobs: its cells, and the untuned base where it is evaluated too; what of each is done and what comes next.

What is done is read from a job's folder alone, so that a sweep goes on after any end. The folder is a run folder, with
``evaluation/`` as ``evaluate run`` leaves it, ``log.txt`` (what all commands printed) and ``cell.json`` (what it was
told).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import write_atomically
from llava_teamlora.run_card import RUN_FILE, read_run_card
from llava_teamlora.sweep.evaluation import EVALUATION, Evaluation
from llava_teamlora.sweep.flags import Checked, train_words
from llava_teamlora.sweep.grid import Cell, Flags, Grid

CELL_FILE = "cell.json"
LOG_FILE = "log.txt"
UNTUNED = "untuned"
PROGRAM = (sys.executable, "-m", "llava_teamlora.cli")
TRAINING, EVALUATING = "training", "evaluating"
_BATCHING = ("batch_size", "device")
"""Settings of an evaluation that are no part of what was measured."""


@dataclass(frozen=True)
class Stage:
    """One command of a job: what it does, and what follows ``llava-teamlora``."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One cell, or an untuned base.

    Attributes:
        name: of its folder.
        label: of its row.
        axes: see :class:`Cell`.
        flags: what GRID.yaml says; of an untuned base none.
        folder: where all of it lies.
        model: what is evaluated.
        train: what follows ``llava-teamlora``; empty for an untuned base.
        kept: arguments that may not change once it has begun.
        version: template of an untuned base.
    """

    name: str
    label: str
    axes: Mapping[str, Any]
    flags: Flags
    folder: Path
    model: str
    train: tuple[str, ...]
    kept: Mapping[str, Any]
    version: str | None = None

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.folder / LOG_FILE

    @property
    def evaluation(self) -> Path:
        """A folder with one folder a benchmark."""
        return self.folder / EVALUATION

    def next_stage(self, evaluation: Evaluation | None) -> Stage | None:
        """What is still to be done, by what lies in the folder; None when nothing is."""
        if self.train and not (self.folder / RUN_FILE).is_file():
            return Stage(TRAINING, self.train)
        missing = evaluation.missing(self.evaluation) if evaluation else []
        if evaluation is None or not missing:
            return None
        return Stage(EVALUATING, tuple(evaluation.words(self.model, self.evaluation, missing, self.version)))

    def results(self) -> Mapping[str, Any]:
        """Figures of its finished training; empty without one."""
        done = self.train and (self.folder / RUN_FILE).is_file()
        return read_run_card(self.folder).results if done else {}


def make_jobs(grid: Grid, checked: Checked) -> list[Job]:
    """All jobs in the order of doing, the untuned bases first."""
    cells = [_of_cell(cell, grid, checked) for cell in grid.cells]
    if not grid.untuned:
        return cells
    if any(cell.name.startswith(UNTUNED) for cell in cells):
        raise UserError(f"{grid.path}: no cell's name may begin with {UNTUNED}, which is the base's")
    bases = {(said["model_name_or_path"], said["version"]): None for said in checked.arguments.values()}
    return [_of_base(base, version, len(bases) > 1, grid) for base, version in bases] + cells


def _of_cell(cell: Cell, grid: Grid, checked: Checked) -> Job:
    folder = grid.out / cell.name
    train = ("train", *train_words(cell, grid.out))
    return Job(cell.name, cell.label, cell.axes, cell.flags, folder, str(folder), train, checked.kept[cell.name])


def _of_base(base: str, version: str, several: bool, grid: Grid) -> Job:
    told = f"{Path(base).name}, {version}" if several else ""
    name = UNTUNED + (re.sub(r"[^\w.+-]+", "-", f"-{told}", flags=re.ASCII) if told else "")
    label = "untuned base" + (f" ({told})" if told else "")
    kept = {"model_name_or_path": base, "version": version}
    return Job(name, label, {}, {}, grid.out / name, base, (), kept, version)


def launched(stage: Stage, processes: int) -> list[str]:
    """The whole command line of a stage, of one process or several on one machine."""
    if processes == 1:
        return [*PROGRAM, *stage.words]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*torchrun, "-m", "--", PROGRAM[-1], *stage.words]


def refuse_changed(jobs: Sequence[Job], evaluation: Evaluation | None, path: Path) -> None:
    """See that what lies in the jobs' folders was told the same as they are now. More benchmarks are no change.

    Raises:
        UserError: with what is different.
    """
    now = _settings(evaluation)
    for job in jobs:
        file = job.folder / CELL_FILE
        if not file.is_file():
            if (job.folder / RUN_FILE).exists():
                raise UserError(f"{job.folder}: a run that no sweep made lies there; choose another `out` in {path}")
            continue
        before = read_json_object(file)
        # A flag that one of the two versions of this program does not have is no change either.
        trained = _changes(before["kept"], job.kept, before["kept"].keys() & job.kept.keys())
        asked = evaluation is not None and job.evaluation.exists()
        evaluated = _changes(before["evaluate"], now, before["evaluate"].keys() | now.keys()) if asked else []
        if trained or evaluated:
            raise UserError(
                f"{path}: the cell {job.name} was begun otherwise ({', '.join([*trained, *evaluated][:4])}); name it "
                "otherwise, choose another `out`, or "
                + (f"remove {job.folder} to do it anew" if trained else f"remove {job.evaluation} to evaluate it anew")
            )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [
        f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in sorted(names) if old.get(name) != new.get(name)
    ]


def remember(job: Job, evaluation: Evaluation | None) -> None:
    """Write ``cell.json``."""
    content = {
        "name": job.name,
        "label": job.label,
        "axes": dict(job.axes),
        "flags": job.flags,
        "train": list(job.train),
        "kept": dict(job.kept),
        "evaluate": _settings(evaluation),
    }
    write_atomically(job.folder / CELL_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _settings(evaluation: Evaluation | None) -> dict[str, Any]:
    """``evaluate NAME``: value of what an evaluation's scores depend on, or have in their name."""
    said = evaluation.settings if evaluation else {}
    return {f"evaluate {name}": value for name, value in said.items() if name not in _BATCHING}
