"""``prepare:`` of a grid: commands that make what the cells need, run once and before all of them."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import IO, Any

from llava_teamlora.errors import UserError
from llava_teamlora.sweep.board import Board, clock
from llava_teamlora.sweep.children import Child, Interruption, last_lines
from llava_teamlora.sweep.grid import Grid, Preparation
from llava_teamlora.sweep.jobs import PROGRAM
from llava_teamlora.sweep.state import Prepared, Record

LOG = "prepare.log"
_OWN = {
    "python": [sys.executable],
    "python3": [sys.executable],
    "llava-teamlora": list(PROGRAM),
}
"""Programs that are this very environment's, whatever the PATH says."""


def command(preparation: Preparation) -> list[str]:
    """Its words; no shell reads them.

    Raises:
        UserError: an unclosed quotation mark, or nothing.
    """
    try:
        words = shlex.split(preparation.run)
    except ValueError as error:
        raise UserError(f"prepare: {preparation.run!r}: {error}") from error
    if not words:
        raise UserError("prepare: a command is empty")
    return [*_OWN.get(words[0], words[:1]), *words[1:]]


def is_made(preparation: Preparation, record: Record) -> bool:
    """Whether it was made before, and what it creates is still there."""
    before = record.prepared.get(preparation.run)
    return before is not None and before.status == 0 and all(Path(path).exists() for path in preparation.creates)


def prepare(grid: Grid, record: Record, lock: IO[Any], board: Board, interruption: Interruption) -> bool:
    """Run what has not been run; returns False after an interruption.

    Raises:
        UserError: a command fails, or does not create what it should.
    """
    log = grid.out / LOG
    for preparation in grid.prepare:
        if is_made(preparation, record):
            continue
        board.say(f"prepare: {preparation.run}")
        child = Child(command(preparation), log, {}, lock)
        heard = 0
        while (status := child.status()) is None:
            if interruption.count > heard:
                child.interrupt() if heard == 0 else child.kill()
                heard = interruption.count
            time.sleep(0.1)
        record.prepared[preparation.run] = Prepared(preparation.run, status, round(child.seconds, 1))
        record.write()
        if interruption.count:
            return False
        _refuse_failed(preparation, status, log)
        board.say(f"prepare: done after {clock(child.seconds)}", "green")
    return True


def _refuse_failed(preparation: Preparation, status: int, log: Path) -> None:
    if status:
        end = "\n".join(f"  {line}" for line in last_lines(log))
        raise UserError(f"prepare: {preparation.run}: ended with status {status}; all of it is in {log}\n{end}")
    missing = [path for path in preparation.creates if not Path(path).exists()]
    if missing:
        raise UserError(f"prepare: {preparation.run}: ended well, but {missing[0]} is not there (creates)")
