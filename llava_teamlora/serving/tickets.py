"""What is asked of the engine, and the place in its line that one gets for it.

In: a request. Out: a ticket, whose events tell how it fares: its place in the line, pieces of text, the whole answer or
what went wrong.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING

from llava_teamlora.errors import UserError
from llava_teamlora.generation import Answer, Decoding, Likelihood, Query

if TYPE_CHECKING:
    import torch

    from llava_teamlora.serving.engine import Engine


_log = logging.getLogger("llava_teamlora.serving")


class Busy(UserError):
    """The line is full: this can be asked again later."""


class Closed(UserError):
    """The engine is shutting down, and takes or answers nothing any more."""


class TimedOut(UserError):
    """A request was not answered in its time; what had been written by then has been told."""


class Cancelled(UserError):
    """Who asked did not want the answer any more; what had been written by then has been told."""


@dataclass(frozen=True)
class Request:
    """One answer wanted.

    Attributes:
        model: the id of one of the family's members.
        query: the conversation that waits for an answer. Pictures may stand in it as ``Generator.pixels`` makes them:
            requests of one ``submit_all`` that hold the very same object share its computation.
        decoding: how tokens are chosen; beams cannot be.
        stops: texts that end the answer and are no part of it, beside the template's own.
        alternatives: how many of the likeliest tokens to tell at each step, with log-probabilities; None tells nothing.
        watch: tell which experts took part in each token.
        gains: what each expert's participation is multiplied by, ``[k]``; None leaves them as they are.
        timeout_s: from the submission on, waiting included; None is the engine's, the longest that is allowed.
    """

    model: str
    query: Query
    decoding: Decoding = field(default_factory=Decoding)
    stops: tuple[str, ...] = ()
    alternatives: int | None = None
    watch: bool = False
    gains: tuple[float, ...] | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class TokenSaid:
    """A token of the answer.

    Attributes:
        id: its number.
        text: what it says by itself, with the space before it; a part of a character shows as U+FFFD.
        likelihood: as asked for by ``alternatives``; natural logarithms.
        participation: of each expert in each layer, ``[layers, k]``, on the CPU; as asked for by ``watch``, and None
            where the model has no routed adapter. Layers stand in the order of ``routing.routed_text_layers``.
    """

    id: int
    text: str
    likelihood: Likelihood | None = None
    participation: torch.Tensor | None = None


@dataclass(frozen=True)
class Waiting:
    """A new place in the line: 1 is the next one, 0 is being answered."""

    position: int


@dataclass(frozen=True)
class Piece:
    """One more token, and what of the answer's text can be shown with it: often a word, sometimes nothing yet.

    Attributes:
        text: to be put behind what was shown before.
        tokens: the new ones; none in a last piece that was only held back.
    """

    text: str
    tokens: tuple[TokenSaid, ...]


@dataclass(frozen=True)
class Usage:
    """How many tokens went in, pictures included, and came out, the one that ends an answer not counted."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Done:
    """The last event of an answer that is complete."""

    answer: Answer
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """The last event of every other answer: what went wrong; :class:`TimedOut`, :class:`Cancelled`, :class:`Closed`."""

    error: Exception


Event = Waiting | Piece | Done | Failed


class Ticket:
    """A place in the engine's line. Every method may be called from any thread.

    Its events go to one reader: an iterator, or a callback.

    Args:
        engine: whose.
        request: what is asked.
        prompt_tokens: of its prompt.
        deadline: in ``time.monotonic``'s seconds; None never comes.
    """

    def __init__(self, engine: Engine, request: Request, prompt_tokens: int, deadline: float | None) -> None:
        self.request, self.prompt_tokens, self.deadline = request, prompt_tokens, deadline
        self._engine = engine
        self._lock = threading.RLock()  # taken again where a callback cancels
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._callback: Callable[[Event], object] | None = None
        self._told = math.inf  # the last position told
        self._ended = threading.Event()

    @property
    def position(self) -> int:
        """In the line: 1 is the next one; 0 is being answered, or has been."""
        return self._engine.position(self)

    @property
    def ended(self) -> bool:
        """Whether the last event has come."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Let go of the answer: its last event comes at once, and its row leaves before the next step.

        One that has ended is left as it is.
        """
        self._engine.cancel(self)

    def events(self) -> Iterator[Event]:
        """All events as they come, up to the last one, which is :class:`Done` or :class:`Failed`."""
        while True:
            event = self._events.get()
            if isinstance(event, Done | Failed):
                self._events.put(event)  # for whoever asks again
                yield event
                return
            yield event

    def deliver_to(self, callback: Callable[[Event], object]) -> None:
        """Have all events handed to a callback, those that have come already at once.

        It is called in the engine's thread, or in that of whoever cancels, and must not wait; in asyncio, let it be
        ``lambda event: loop.call_soon_threadsafe(queue.put_nowait, event)``. If it raises, the request is let go.
        """
        with self._lock:
            self._callback = callback
            while not self._events.empty():
                callback(self._events.get_nowait())

    def result(self) -> Answer:
        """Wait for the whole answer.

        Raises:
            Exception: what the last event says went wrong.
        """
        for event in self.events():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                return event.answer
        raise AssertionError("a ticket's events end in Done or Failed")

    def tell(self, event: Event) -> None:
        """For the engine: hand an event on. Nothing is told after the last one; places are, on the way to the front."""
        with self._lock:
            if self.ended or (isinstance(event, Waiting) and event.position >= self._told):
                return
            if isinstance(event, Waiting):
                self._told = event.position
            if isinstance(event, Done | Failed):
                self._ended.set()
            if self._callback is None:
                self._events.put(event)
                return
            try:
                self._callback(event)
            except Exception:  # a closed loop, a reader who has gone: the others' answers go on
                _log.exception("an answer's reader failed, and is told nothing more")
                self._ended.set()
