"""How far, how fast, how much longer: a bar on a terminal, now and then a line in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINE_EVERY_S = 60.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def progress(name: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Yield what is called with the number of questions just answered.

    Where stderr is no terminal a line is printed once a minute, and one at the end.

    Args:
        name: stands in front.
        total: questions.
        shown: print it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(name, total, shown)
        try:
            yield lines.advance
        finally:
            lines.tell()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


class _Lines:
    """Plain lines for a log file."""

    def __init__(self, name: str, total: int, shown: bool) -> None:
        self._name, self._total, self._shown = name, total, shown
        self._done = 0
        self._began = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._told >= _LINE_EVERY_S:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        if not self._shown:
            return
        seconds = self._told - self._began
        rate = self._done / seconds if seconds else 0.0
        left = (self._total - self._done) / rate if rate else None
        parts = [f"{self._name}: {self._done}/{self._total}", f"{rate:.1f}/s", f"{_clock(seconds)} gone"]
        if left:
            parts.append(f"{_clock(left)} left")
        print(", ".join(parts), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
