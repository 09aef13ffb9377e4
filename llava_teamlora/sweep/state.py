"""Where every job of a sweep stands, and ``sweep.json``, which says so to others. Written whole after each change."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_teamlora.cme.runs import SWEEP_FILE, SWEEP_FORMAT, SWEEP_KEY
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import write_atomically
from llava_teamlora.sweep.evaluation import Evaluation
from llava_teamlora.sweep.grid import Grid
from llava_teamlora.sweep.jobs import LOG_FILE, Job

WAITING, DONE, FAILED, INTERRUPTED = "waiting", "done", "failed", "interrupted"


@dataclass
class Standing:
    """Where one job stands.

    Attributes:
        job: the job.
        status: waiting, training, evaluating, done, failed or interrupted.
        seconds: that its commands have taken, in all sessions.
        exit_status: of the command that failed; negative for a signal's number, None if it could not be started.
        reason: the end of what that command printed, or why it was not started.
    """

    job: Job
    status: str = WAITING
    seconds: float = 0.0
    exit_status: int | None = None
    reason: list[str] = field(default_factory=list)


@dataclass
class Prepared:
    """A preparation that was made: its command, how it ended and how long it took."""

    run: str
    status: int
    seconds: float


class Record:
    """``sweep.json`` of one sweep."""

    def __init__(self, grid: Grid, jobs: Sequence[Job], evaluation: Evaluation | None) -> None:
        self.grid = grid
        self.evaluation = evaluation
        self.path = grid.out / SWEEP_FILE
        before = _former(self.path)
        seconds = {cell["name"]: cell["seconds"] for cell in before.get("cells", ())}
        self.failed_before = {cell["name"] for cell in before.get("cells", ()) if cell["status"] == FAILED}
        self.prepared = {entry["run"]: Prepared(**entry) for entry in before.get("prepare", ())}
        self.standings = [self._stands(job, seconds.get(job.name, 0.0)) for job in jobs]

    def _stands(self, job: Job, seconds: float) -> Standing:
        done = job.next_stage(self.evaluation) is None
        return Standing(job, DONE if done else WAITING, seconds)

    def count(self, status: str) -> int:
        """How many jobs have this status."""
        return sum(standing.status == status for standing in self.standings)

    def write(self) -> None:
        """Bring it to the disk."""
        content = {
            SWEEP_KEY: SWEEP_FORMAT,
            "grid": str(self.grid.path),
            "axes": list(self.grid.axes),
            "benchmarks": list(self.evaluation.benchmarks) if self.evaluation else [],
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "prepare": [asdict(entry) for entry in self.prepared.values()],
            "cells": [self._cell(standing) for standing in self.standings],
        }
        write_atomically(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _cell(self, standing: Standing) -> dict[str, Any]:
        job = standing.job
        return {
            "name": job.name,
            "label": job.label,
            "kind": "cell" if job.train else "untuned",
            "axes": dict(job.axes),
            "flags": job.flags,
            "status": standing.status,
            "seconds": round(standing.seconds, 1),
            "folder": job.name,
            "log": f"{job.name}/{LOG_FILE}",
            "exit_status": standing.exit_status,
            "reason": standing.reason,
            "scores": self._scores(job),
        }

    def _scores(self, job: Job) -> dict[str, float]:
        """Totals as the official tools show them."""
        if self.evaluation is None:
            return {}
        totals = {name: file.content["total"] for name, file in self.evaluation.scores(job.evaluation).items()}
        return {name: total["value"] * total.get("maximum", 100.0) for name, total in totals.items()}


def _former(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    content = read_json_object(path)
    if content.get(SWEEP_KEY) != SWEEP_FORMAT:
        raise UserError(f"{path}: was not written by this version of llava-teamlora sweep; choose another `out`")
    return content
