"""How far a pass over many rows is: a line that counts on a terminal, one a minute in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TERMINAL_S, _LOG_S = 0.5, 60.0


@contextmanager
def counting(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yield what is called with the number of rows just done.

    Args:
        name: what is done, stands in front.
        total: rows there are, where it is known.
    """
    terminal = sys.stderr.isatty()
    every = _TERMINAL_S if terminal else _LOG_S
    done, began = 0, time.monotonic()
    due = began + every

    def line() -> str:
        seconds = time.monotonic() - began
        rate = f", {done / seconds:,.0f} a second" if seconds else ""
        left = f" of {total:,}" if total is not None else ""
        return f"{name}: {done:,}{left} rows{rate}"

    def told(count: int) -> None:
        nonlocal done, due
        done += count
        if done % 256 < count and time.monotonic() >= due:  # the clock is asked now and then only
            due = time.monotonic() + every
            print(
                f"\r\033[K{line()}" if terminal else line(), end="" if terminal else "\n", file=sys.stderr, flush=True
            )

    try:
        yield told
    finally:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
