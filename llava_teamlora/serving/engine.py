"""One thread that does all of the models' work, for any number of askers.

In: requests from any thread. Out: tickets that tell what becomes of them. Rows of one model and one setting of its
experts are a batch, which others join between two steps; batches take turns step by step.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from PIL import Image

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.generation import Decoding, PromptTooLong, Query
from llava_teamlora.serving.batch import Batch, tell_failure
from llava_teamlora.serving.family import Family, Member
from llava_teamlora.serving.tickets import Busy, Cancelled, Closed, Failed, Request, Ticket, TimedOut, Waiting

Key = tuple[str, tuple[float, ...] | None]


@dataclass(frozen=True)
class Limits:
    """What the engine takes on.

    Attributes:
        max_batch: answers in the making at once.
        max_waiting: requests in the line, beside those.
        max_prompt_tokens: of one request, pictures included; None leaves it to the model.
        timeout_s: longest time for one request, waiting included; None has no end.
    """

    max_batch: int = 16
    max_waiting: int = 64
    max_prompt_tokens: int | None = None
    timeout_s: float | None = 600.0

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_waiting", 0), ("max_prompt_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value} must be at least {least}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise UserError(f"--timeout_s {self.timeout_s} must be above 0")


@dataclass(frozen=True)
class Load:
    """How many answers are in the making, and how many requests wait in the line."""

    running: int
    waiting: int


class Engine:
    """Answers requests with a family of models. Also a context manager, which shuts down without draining.

    Args:
        family: whose members can be asked; nobody else may have them answer meanwhile.
        limits: what to take on.
    """

    def __init__(self, family: Family, limits: Limits | None = None) -> None:
        self.family = family
        self.limits = limits or Limits()
        self._changed = threading.Condition()  # guards the line, who is running, and whether it goes on
        self._line: list[Ticket] = []
        self._running: list[Ticket] = []
        self._closing = self._at_once = False
        self._batches: dict[Key, Batch] = {}  # the thread's alone; whose turn is next stands first
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """How busy the engine is now."""
        with self._changed:
            return Load(len(self._running), len(self._line))

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: until the shutdown begins."""
        return not self._closing and self._thread.is_alive()

    def submit(self, request: Request) -> Ticket:
        """Get in line.

        Raises:
            Busy: the line is full.
            Closed: the engine is shutting down.
            UserError: the request cannot be answered: no such model, pictures for a model without eyes, a prompt that
                is too long (``PromptTooLong``), gains that do not fit its experts, beams.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Ticket]:
        """Get in line with several requests, all or none of them.

        Raises:
            UserError: as :meth:`submit` says.
        """
        with self._changed:
            self._check_room(len(requests))  # before the work of encoding
        pictures: dict[tuple[str, int], object] = {}
        tickets = [self._ticket(request, pictures) for request in requests]
        with self._changed:
            self._check_room(len(requests))
            self._line += tickets
            places = {} if self._free() >= len(self._line) else {each: self._line.index(each) + 1 for each in tickets}
            self._changed.notify_all()
        for ticket, place in places.items():
            ticket.tell(Waiting(place))
        return tickets

    def warm_up(self) -> None:
        """Answer something with each member, so that the first who asks need not wait for what is made once."""
        for member in self.family.models.values():
            pictures = () if member.loaded.vision is None else (Image.new("RGB", (8, 8)),)
            request = Request(member.id, Query.ask("?", *pictures), Decoding(max_new_tokens=2))
            self.submit(request).result()

    def shutdown(self, drain: bool = False, timeout_s: float | None = None) -> None:
        """Take nothing more and end; those not answered by then are told :class:`Closed`. It may be called again.

        Args:
            drain: finish first what has been taken on.
            timeout_s: longest time for that; None has no end.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if drain:
            self._thread.join(timeout_s)
        with self._changed:
            self._at_once = True
            left = [*self._line, *self._running]
            self._line.clear()
            self._changed.notify_all()
        for ticket in left:
            ticket.tell(Failed(Closed("the server is shutting down; ask again when it is back")))
        if not drain:
            self._thread.join(timeout_s)

    def position(self, ticket: Ticket) -> int:
        """See :attr:`Ticket.position`."""
        with self._changed:
            return self._line.index(ticket) + 1 if ticket in self._line else 0

    def cancel(self, ticket: Ticket) -> None:
        """See :meth:`Ticket.cancel`."""
        with self._changed:
            if ticket in self._line:
                self._line.remove(ticket)
        ticket.tell(Failed(Cancelled("the answer was stopped")))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()

    def _free(self) -> int:
        return self.limits.max_batch - len(self._running)

    def _check_room(self, count: int) -> None:
        if self._closing:
            raise Closed("the server is shutting down; ask again when it is back")
        most = self.limits.max_batch + self.limits.max_waiting
        if count > most:
            raise UserError(f"{count} answers are asked for at once; at most {most} are taken on")
        busy = len(self._line) + len(self._running)
        if busy + count > most:
            raise Busy(f"{busy} requests are being answered or wait, as many as are taken on; try again later")

    def _ticket(self, request: Request, pictures: dict[tuple[str, int], object]) -> Ticket:
        """A checked request's ticket; its pictures become pixels here, in the thread of who asks."""
        member = self.family.models.get(request.model)
        if member is None:
            raise UserError(
                f"{request.model!r}: no such model; there are {', '.join(self.family.models)}"
                + nearest(request.model, self.family.models)
            )
        _check(request, member)
        tokens = len(member.generator.encode(request.query))
        most = self.limits.max_prompt_tokens
        if most is not None and tokens > most:
            raise PromptTooLong(f"the prompt has {tokens} tokens, pictures included; at most {most} are taken", tokens)
        for image in request.query.images:
            if isinstance(image, Image.Image) and (request.model, id(image)) not in pictures:
                pictures[request.model, id(image)] = member.generator.pixels(image)
        images = tuple(pictures.get((request.model, id(image)), image) for image in request.query.images)
        query = replace(request.query, images=images)
        gains = None if request.gains is None or set(request.gains) == {1.0} else tuple(request.gains)
        times = [each for each in (request.timeout_s, self.limits.timeout_s) if each is not None]
        deadline = time.monotonic() + min(times) if times else None
        return Ticket(self, replace(request, query=query, gains=gains), tokens, deadline)

    def _work(self) -> None:
        """The thread: round by round, until the end."""
        while self._goes_on():
            try:
                self._end_late()
                self._drop_ended()
                self._admit_next()
                self._drop_ended()  # those who were stopped while prompts were read
                self._step()
            except Exception as error:  # none of the models': nobody must wait for ever because of it
                self._batches.clear()
                with self._changed:
                    left = [*self._line, *self._running]
                    self._line.clear()
                tell_failure(left, error)
            with self._changed:
                self._running = self._in_batches()
        self._batches.clear()
        with self._changed:
            self._running.clear()

    def _goes_on(self) -> bool:
        """Wait for work; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._running or self._closing)
            return not self._at_once and bool(not self._closing or self._line or self._running)

    def _end_late(self) -> None:
        now = time.monotonic()
        with self._changed:
            late = [each for each in (*self._line, *self._running) if each.deadline is not None and each.deadline < now]
            self._line = [each for each in self._line if each not in late]
        for ticket in late:
            ticket.tell(Failed(TimedOut("the time for this answer is over")))

    def _next_in_line(self) -> dict[Key, list[Ticket]]:
        """Take those who can be answered now out of the line, and tell the others their places."""
        taken: dict[Key, list[Ticket]] = {}
        with self._changed:
            self._running = self._in_batches()
            for ticket in list(self._line):
                key = (ticket.request.model, ticket.request.gains)
                if self._free() and (key not in self._batches or self._batches[key].joinable):
                    taken.setdefault(key, []).append(ticket)
                    self._running.append(ticket)
                    self._line.remove(ticket)
            waiting = list(self._line)
        for place, ticket in enumerate(waiting, 1):
            ticket.tell(Waiting(place))
        return taken

    def _in_batches(self) -> list[Ticket]:
        return [ticket for batch in self._batches.values() for ticket in batch.tickets]

    def _admit_next(self) -> None:
        """Have those answered whose turn it is; not in the thread's loop, which would hold on to them as it waits."""
        for key, tickets in self._next_in_line().items():
            for ticket in tickets:
                ticket.tell(Waiting(0))
            batch = self._batches.setdefault(key, Batch(self.family.models[key[0]], key[1]))
            self._attempt(key, partial(batch.admit, tickets), tickets)

    def _drop_ended(self) -> None:
        for key, batch in list(self._batches.items()):
            self._attempt(key, batch.drop_ended)

    def _step(self) -> None:
        """One step of the batch whose turn it is, which goes to the end of the line of batches."""
        if self._batches:
            key = next(iter(self._batches))
            self._batches[key] = batch = self._batches.pop(key)
            self._attempt(key, batch.step)

    def _attempt(self, key: Key, work: Callable[[], None], others: Sequence[Ticket] = ()) -> None:
        """Do something with a batch; if it fails, those in it and the others named fail, and nobody else."""
        try:
            work()
        except Exception as error:
            tell_failure([*self._batches.pop(key).tickets, *others], error)
        else:
            if not self._batches[key]:
                del self._batches[key]


def _check(request: Request, member: Member) -> None:
    """Refuse what cannot be answered, before it is in anybody's batch."""
    if request.decoding.num_beams > 1:
        raise UserError("beams cannot be asked for here; take num_beams 1")
    if not all(request.stops):
        raise UserError("a stop text is empty, which would end every answer at once; leave it out")
    words = len(member.generator.tokenizer)
    if request.alternatives is not None and not 0 <= request.alternatives <= words:
        raise UserError(f"{request.alternatives} alternatives to a token cannot be told; ask for 0 to {words}")
    if request.timeout_s is not None and not request.timeout_s > 0:
        raise UserError(f"a time limit of {request.timeout_s} s is none; give one above 0")
    if request.gains is None:
        return
    if not member.experts:
        raise UserError(f"{member.id}: has no routed experts to weight; leave the gains out")
    if len(request.gains) != member.experts:
        raise UserError(f"{member.id}: has {member.experts} experts, but {len(request.gains)} gains are given")
    if not all(math.isfinite(gain) and gain >= 0 for gain in request.gains):
        raise UserError(f"gains must be finite and 0 or above, got {list(request.gains)}")
