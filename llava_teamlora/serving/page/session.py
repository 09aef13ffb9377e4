"""One browser's conversation: two columns at most, what is being answered in them, and how it ends.

In: the engine's events. Out: the state that ``view.py`` shows. Knows nothing of Gradio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llava_teamlora.serving.conversation import Conversation, Exchange, Reply, Settings
from llava_teamlora.serving.experts import Strip
from llava_teamlora.serving.tickets import Cancelled, Done, Event, Failed, Piece, Request, Ticket, Waiting

if TYPE_CHECKING:
    from llava_teamlora.serving.engine import Engine


@dataclass
class Side:
    """One column.

    Attributes:
        model: the id of the member that answers.
        conversation: what was said; its last question is open while it is being answered.
        said: of the answer being written.
        strip: the experts at work in the newest answer; None where there is none, or no experts.
        position: in the engine's line; 0 is being answered.
        error: why the newest question has no answer.
        ticket: of the answer being written.
    """

    model: str
    conversation: Conversation = field(default_factory=Conversation)
    said: str = ""
    strip: Strip | None = None
    position: int = 0
    error: Exception | None = None
    ticket: Ticket | None = None


@dataclass(frozen=True)
class Asked:
    """What one column is to answer: a conversation that ends in an open question, by whom and how."""

    side: Side
    conversation: Conversation
    settings: Settings
    strip: Strip | None


class Session:
    """What one browser talks about. Nothing of it is shared with another.

    Args:
        left: the id of the member that answers on the left.
        right: and on the right, once two are compared.
    """

    def __init__(self, left: str, right: str) -> None:
        self.sides = (Side(left), Side(right))
        self.comparing = False
        self.language = "en"
        self.busy = False
        self.looked_at: list[str] = []  # files whose preparation is shown
        self._stopped = False

    @property
    def shown(self) -> tuple[Side, ...]:
        """The columns in sight."""
        return self.sides if self.comparing else self.sides[:1]

    def stop(self) -> None:
        """Let go of what is being answered: no further token is computed for it."""
        self._stopped = True
        for side in self.sides:
            if side.ticket is not None:
                side.ticket.cancel()

    async def answer(self, engine: Engine, asked: Sequence[Asked], update_s: float) -> AsyncGenerator[None, None]:
        """Have questions answered side by side; yields whenever there is something new to see.

        Args:
            engine: who answers.
            asked: one a column.
            update_s: shortest time between two yields.

        Raises:
            UserError: they cannot be asked; then all is as before. What goes wrong later stands in ``Side.error``.
        """
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.busy, self._stopped = True, False
        try:
            # In a thread: prompts are encoded and pictures prepared there.
            tickets = await asyncio.to_thread(engine.submit_all, [_request(one) for one in asked])
            for at, (one, ticket) in enumerate(zip(asked, tickets, strict=True)):
                _begin(one, ticket)
                ticket.deliver_to(lambda event, at=at: loop.call_soon_threadsafe(events.put_nowait, (at, event)))
            if self._stopped:
                self.stop()
            yield
            while any(one.side.ticket is not None for one in asked):
                news = [await events.get()]
                while not events.empty():
                    news.append(events.get_nowait())
                for at, event in news:
                    _take(asked[at], event)
                yield
                await asyncio.sleep(update_s)
        finally:  # also where the browser has gone
            for one in asked:
                if one.side.ticket is not None:
                    one.side.ticket.cancel()
                    _take(one, Failed(Cancelled("the page was closed")))
            self.busy = False

    def alike(self, side: Side, index: int) -> list[tuple[Side, int]]:
        """Where a question of one column stands in all columns in sight; where it is not, that column is left out.

        Args:
            side: the column.
            index: of the exchange in it.
        """
        exchange = side.conversation.exchanges[index]
        found = []
        for other in self.shown:
            places = [i for i, one in enumerate(other.conversation.exchanges) if _same(one, exchange)]
            if other is side:
                found.append((side, index))
            elif places:
                found.append((other, min(places, key=lambda place: abs(place - index))))
        return found


def _same(one: Exchange, other: Exchange) -> bool:
    return one.question == other.question and one.pictures == other.pictures


def _request(asked: Asked) -> Request:
    settings = asked.settings
    return Request(
        settings.model,
        asked.conversation.query(),
        settings.decoding,
        watch=asked.strip is not None,
        gains=settings.gains,
    )


def _begin(asked: Asked, ticket: Ticket) -> None:
    side = asked.side
    side.conversation, side.strip, side.ticket = asked.conversation, asked.strip, ticket
    side.said, side.error, side.position = "", None, ticket.position


def _take(asked: Asked, event: Event) -> None:
    side = asked.side
    match event:
        case Waiting(position):
            side.position = position
        case Piece(text, tokens):
            side.position = 0
            side.said += text
            if side.strip is not None:
                side.strip.push(tokens)
        case Done(answer):
            _close(asked, Reply(answer.text, answer.finish, asked.settings))
        case Failed(error):
            side.error = None if isinstance(error, Cancelled) else error
            _close(asked, Reply(side.said, "stopped", asked.settings) if side.said else None)


def _close(asked: Asked, reply: Reply | None) -> None:
    """Without a reply the question stays open, to be asked again."""
    side = asked.side
    if reply is not None:
        side.conversation = side.conversation.answered(reply)
    side.ticket, side.said, side.position = None, "", 0
