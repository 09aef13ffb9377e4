"""The engine's events, handed over from its thread to asyncio, for the answers of one request together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar

from llava_teamlora.serving.tickets import Done, Event, Failed, Piece, Ticket, Waiting

if TYPE_CHECKING:
    from starlette.requests import Request as HttpRequest

    from llava_teamlora.serving.api.metrics import Metrics

T = TypeVar("T")


class Gone(Exception):
    """Nobody is there any more to hear the answer."""


class Events:
    """What comes of some tickets, in one line: ``(which ticket, event)``.

    Args:
        tickets: whose events.
        metrics: told of them.
        since: when the request arrived, in ``time.perf_counter``'s seconds.
    """

    def __init__(self, tickets: Sequence[Ticket], metrics: Metrics, since: float) -> None:
        self._tickets = tickets
        self._open = len(tickets)
        self._line: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._watches = [metrics.watch(ticket.request.model, since) for ticket in tickets]
        self._first: tuple[int, Piece | Done] | None = None
        loop = asyncio.get_running_loop()
        for index, ticket in enumerate(tickets):
            ticket.deliver_to(lambda event, i=index: loop.call_soon_threadsafe(self._line.put_nowait, (i, event)))

    async def begun(self) -> None:
        """Wait until there is something to tell.

        Raises:
            Exception: what went wrong before.
        """
        self._first = await self._next()

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> tuple[int, Piece | Done]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._open:
            raise StopAsyncIteration
        return await self._next()

    async def _next(self) -> tuple[int, Piece | Done]:
        while True:
            index, event = await self._line.get()
            self._watches[index].saw(event)
            if isinstance(event, Failed):
                self.cancel()  # the others of this request are no use without it
                raise event.error
            if not isinstance(event, Waiting):
                self._open -= isinstance(event, Done)
                return index, event

    def cancel(self) -> None:
        """Let go of all that has not ended."""
        for ticket in self._tickets:
            ticket.cancel()


async def while_there(request: HttpRequest, work: Awaitable[T]) -> T:
    """Do some work unless the client goes away, whose body must have been read.

    Raises:
        Gone: it went.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return await doing
        raise Gone
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
