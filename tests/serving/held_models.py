"""Models held between two steps, and answers without an end: what comes midway can be looked at without haste."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from llava_teamlora.generation import Generator
from llava_teamlora.generation.answering import Answering, Token


class Gate:
    """Lets models make so many steps and no more; open at first.

    Attributes:
        steps: made since the gate was last shut.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._left: int | None = None
        self._changed = threading.Condition()

    def allow(self, steps: int) -> None:
        """Shut it after so many steps from now."""
        with self._changed:
            self._left, self.steps = steps, 0
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything through again."""
        with self._changed:
            self._left = None
            self._changed.notify_all()

    def wait_for(self, steps: int, timeout_s: float = 20) -> None:
        """Until so many have been made."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.steps >= steps, timeout_s), f"{self.steps} steps were made"

    def pass_through(self) -> None:
        """For a model's thread: wait to be allowed a step."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._left != 0, 60), "nobody opened the gate"
            if self._left is not None:
                self._left -= 1

    def passed(self) -> None:
        """For a model's thread: the step is made."""
        with self._changed:
            self.steps += 1
            self._changed.notify_all()


@contextmanager
def gate() -> Iterator[Gate]:
    """A gate before every step of every model in this process."""
    held = Gate()
    step = Answering.step

    def through(self: Answering) -> list[Token]:
        held.pass_through()
        tokens = step(self)
        held.passed()
        return tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answering, "step", through)
        try:
            yield held
        finally:
            held.open()


@contextmanager
def endless(*generators: Generator) -> Iterator[None]:
    """No answer of theirs ends but at its longest."""
    with pytest.MonkeyPatch.context() as patch:
        for generator in generators:
            patch.setattr(generator, "forbid", _forbidding(generator))
        yield


def _forbidding(generator: Generator):
    forbid, ends = generator.forbid, torch.tensor(sorted(generator.end))

    def without_ends(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return forbid(ids, scores).index_fill(-1, ends, -torch.inf)

    return without_ends
