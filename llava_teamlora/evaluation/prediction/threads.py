"""Questions put side by side to whoever answers them, in threads that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[tuple[T, R | Exception]]:
    """Do ``work`` with every item, and yield each with what came of it, as it comes.

    An item is taken when a thread is free for it, so a caller whose ``items`` end early has nothing more begun. Leaving
    early (Ctrl-C, a closed iterator) waits for nothing: the threads are daemons, and a server that hangs keeps neither
    this function nor the interpreter. ``concurrent.futures`` would wait for it in both places.

    Args:
        work: may raise; the exception is the result then. Called from several threads.
        items: taken one by one, in this thread.
        count: threads. A single one is this thread itself, so that Ctrl-C reaches into ``work``.
    """
    if count == 1:
        yield from ((item, _outcome(work, item)) for item in items)
        return
    todo: SimpleQueue[tuple[T] | None] = SimpleQueue()
    done: SimpleQueue[tuple[T, R | Exception]] = SimpleQueue()

    def serve() -> None:
        while (task := todo.get()) is not None:
            done.put((task[0], _outcome(work, task[0])))

    for _ in range(count):
        threading.Thread(target=serve, daemon=True).start()
    waiting, running = iter(items), 0
    try:
        while True:
            for item in islice(waiting, count - running):
                todo.put((item,))
                running += 1
            if not running:
                return
            found = done.get()
            running -= 1
            yield found
    finally:
        for _ in range(count):
            todo.put(None)


def _outcome(work: Callable[[T], R], item: T) -> R | Exception:
    try:
        return work(item)
    except Exception as error:
        return error
