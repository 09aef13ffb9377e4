"""Doing a sweep's jobs: a queue over places, a place being a GPU (or several, or a share of the CPU's cores).

The next free place takes the next waiting job and keeps it through all its stages. A stage that fails ends its job and
no other. One thread, which looks at its children ten times a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from llava_teamlora.errors import UserError
from llava_teamlora.sweep.board import Board
from llava_teamlora.sweep.children import Child, Interruption, last_lines
from llava_teamlora.sweep.evaluation import Evaluation
from llava_teamlora.sweep.jobs import Stage, launched, remember
from llava_teamlora.sweep.state import DONE, FAILED, INTERRUPTED, WAITING, Record, Standing

_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Place:
    """Where one job at a time is done.

    Attributes:
        environment: that shows its processes their devices and cores.
        processes: of a job there.
    """

    environment: Mapping[str, str]
    processes: int = 1


@dataclass
class _Running:
    standing: Standing
    stage: Stage
    child: Child
    place: Place


class Runner:
    """Does all waiting jobs of a record."""

    def __init__(
        self,
        record: Record,
        chosen: Sequence[Standing],
        places: Sequence[Place],
        evaluation: Evaluation | None,
        lock: IO[Any],
        board: Board,
        interruption: Interruption,
    ) -> None:
        self._record = record
        self._waiting = [standing for standing in chosen if standing.status == WAITING]
        self._free = list(places)
        self._evaluation = evaluation
        self._lock = lock
        self._board = board
        self._interruption = interruption
        self._running: list[_Running] = []
        self._heard = 0

    def run(self) -> None:
        """Until nothing is left to do, or after an interruption until the running commands have ended."""
        try:
            while self._go_on():
                self._board.refresh({one.standing.job.name: one.child.seconds for one in self._running})
                time.sleep(_LOOK_EVERY_S)
        finally:  # a full disk, say, where sweep.json lies
            for one in self._running:
                one.child.interrupt()

    def _go_on(self) -> bool:
        """Look once at everything; returns whether anything is still running."""
        self._hear()
        for one in [one for one in self._running if one.child.status() is not None]:
            self._ended(one)
        while self._free and self._waiting and not self._interruption.count:
            self._next_stage(self._waiting.pop(0), self._free.pop(0))
        return bool(self._running)

    def _hear(self) -> None:
        """Pass a Ctrl-C on: the first asks the children to save and end, a further one kills them."""
        count = self._interruption.count
        if count == self._heard:
            return
        for one in self._running:
            one.child.interrupt() if self._heard == 0 and count == 1 else one.child.kill()
        if self._heard == 0 and self._running:
            names = ", ".join(one.standing.job.name for one in self._running)
            self._board.say(f"interrupted; {names} may still save (again to end at once)", "yellow")
        self._heard = count

    def _next_stage(self, standing: Standing, place: Place, after: Stage | None = None) -> None:
        """Start what a job needs next, or end it."""
        stage = standing.job.next_stage(self._evaluation)
        if stage is None:
            self._conclude(standing, DONE, place)
        elif after is not None and stage.name == after.name:
            reason = f"{after.name} ended with status 0 and left nothing that could be found"
            self._fail(standing, 0, [*last_lines(standing.job.log), reason], place)
        elif self._interruption.count:
            self._conclude(standing, INTERRUPTED, place)
        else:
            self._start(standing, stage, place)

    def _start(self, standing: Standing, stage: Stage, place: Place) -> None:
        job = standing.job
        try:
            remember(job, self._evaluation)
            child = Child(launched(stage, place.processes), job.log, place.environment, self._lock)
        except UserError as error:  # a file in its folder's way, say: the other cells have folders of their own
            return self._fail(standing, None, [str(error)], place)
        self._running.append(_Running(standing, stage, child, place))
        self._set(standing, stage.name)

    def _ended(self, one: _Running) -> None:
        self._running.remove(one)
        status, standing = one.child.status(), one.standing
        assert status is not None
        standing.seconds += one.child.seconds
        if status == 0:
            self._next_stage(standing, one.place, one.stage)
        elif self._interruption.count:
            self._conclude(standing, INTERRUPTED, one.place)
        else:
            self._fail(standing, status, last_lines(standing.job.log), one.place)

    def _fail(self, standing: Standing, status: int | None, reason: list[str], place: Place) -> None:
        standing.exit_status, standing.reason = status, reason
        self._conclude(standing, FAILED, place)

    def _conclude(self, standing: Standing, status: str, place: Place) -> None:
        self._free.append(place)
        self._set(standing, status)

    def _set(self, standing: Standing, status: str) -> None:
        standing.status = status
        self._record.write()
        self._board.changed(standing)
