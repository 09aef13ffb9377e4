"""What a sweep shows while it runs: a live table in a terminal, a line a change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llava_teamlora.sweep.jobs import EVALUATING, TRAINING
from llava_teamlora.sweep.progress import progress
from llava_teamlora.sweep.state import DONE, FAILED, INTERRUPTED, WAITING, Standing

_STYLES = {DONE: "green", FAILED: "red", INTERRUPTED: "yellow", WAITING: "dim"}
_RUNNING = (TRAINING, EVALUATING)
_ROWS = 24
_REFRESH_S = 1.0


class Board:
    """Shows the standings of a sweep's jobs."""

    def __init__(self, console: Console, standings: Sequence[Standing], at_once: int) -> None:
        self._console = console
        self._standings = standings
        self._at_once = at_once
        self._started = self._drawn = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(text, style=style))

    def changed(self, standing: Standing) -> None:
        """A job's status is another now."""
        ended = standing.status in (DONE, FAILED, INTERRUPTED)
        if self._live is None or ended:
            after = f" after {clock(standing.seconds)}" if ended else ""
            count = sum(one.status in (DONE, FAILED) for one in self._standings)
            place = f"  [{count} of {len(self._standings)}]" if ended else ""
            self.say(f"{standing.job.name}: {standing.status}{after}{place}", _STYLES.get(standing.status, ""))
        self._drawn = 0.0

    def refresh(self, seconds: Mapping[str, float]) -> None:
        """Draw anew, once a second.

        Args:
            seconds: that the running commands have taken by now, by the job's name.
        """
        if self._live is not None and time.monotonic() - self._drawn > _REFRESH_S:
            self._drawn = time.monotonic()
            self._live.update(self._table(seconds), refresh=True)

    def _table(self, seconds: Mapping[str, float]) -> Group:
        table = Table(box=None, pad_edge=False)
        for head in ("cell", "", "time", "progress"):
            table.add_column(head, overflow="fold")
        shown = self._shown()
        for one in shown:
            running = one.status in _RUNNING
            taken = one.seconds + seconds.get(one.job.name, 0.0)
            table.add_row(
                Text(one.job.name),
                Text(one.status, style=_STYLES.get(one.status, "cyan")),
                Text(clock(taken) if taken else ""),
                Text(progress(one.job.log) if running else ""),
            )
        hidden = len(self._standings) - len(shown)
        more = [Text(f"… and {hidden} more", style="dim")] if hidden else []
        return Group(table, *more, Text(self._summary(seconds), style="bold"))

    def _shown(self) -> list[Standing]:
        """All, or of many first those that something is to be seen of."""
        if len(self._standings) <= _ROWS:
            return list(self._standings)
        order = {TRAINING: 0, EVALUATING: 0, FAILED: 1, INTERRUPTED: 1, WAITING: 2, DONE: 3}
        chosen = sorted(self._standings, key=lambda one: order[one.status])[:_ROWS]
        return [one for one in self._standings if one in chosen]

    def _summary(self, seconds: Mapping[str, float]) -> str:
        statuses = [one.status for one in self._standings]
        running = sum(status in _RUNNING for status in statuses)
        parts = [f"{statuses.count(DONE)} of {len(statuses)} done", f"{running} running"]
        parts += [f"{statuses.count(FAILED)} failed"] if FAILED in statuses else []
        parts += [clock(time.monotonic() - self._started)]
        left = time_left(self._standings, seconds, self._at_once)
        return ", ".join([*parts, f"about {clock(left)} left"] if left is not None else parts)


def time_left(standings: Sequence[Standing], seconds: Mapping[str, float], at_once: int) -> float | None:
    """Seconds until all is done, if those to come take as long as those that are done; None before the first is."""
    done = [one.seconds for one in standings if one.status == DONE and one.job.train and one.seconds]
    if not done:
        return None
    each = sum(done) / len(done)
    left = [one for one in standings if one.status in (WAITING, *_RUNNING) and one.job.train]
    return sum(max(each - one.seconds - seconds.get(one.job.name, 0.0), 0.0) for one in left) / at_once


def clock(seconds: float) -> str:
    """``75.2`` -> ``1:15``, hours as ``2:03:04``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
