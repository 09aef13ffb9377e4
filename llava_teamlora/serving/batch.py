"""Tickets of one model and one setting of its experts, answered together.

In: tickets, at any time. Out: their events. Only the engine's thread comes here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llava_teamlora.generation import Answer, Answering, Ask, Spoken, Token
from llava_teamlora.generation.spoken import spoken_text, token_text
from llava_teamlora.serving.family import Member
from llava_teamlora.serving.tickets import Busy, Done, Failed, Piece, Ticket, TokenSaid, Usage
from llava_teamlora.tuners.routed import steer_experts

_log = logging.getLogger("llava_teamlora.serving")


@dataclass(frozen=True)
class _Row:
    ticket: Ticket
    spoken: Spoken


class Batch:
    """A running batch. Truthy while it holds rows.

    Args:
        member: who answers.
        gains: of its experts, for all rows here; None leaves them as they are.
    """

    def __init__(self, member: Member, gains: tuple[float, ...] | None) -> None:
        self.member, self.gains = member, gains
        self._answering = Answering(member.generator)
        self._rows: dict[int, _Row] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def tickets(self) -> list[Ticket]:
        """Those being answered."""
        return [row.ticket for row in self._rows.values()]

    @property
    def joinable(self) -> bool:
        """See ``Answering.joinable``."""
        return self._answering.joinable

    def admit(self, tickets: Sequence[Ticket]) -> None:
        """Read the prompts of those who still want an answer, and answer them from the next step on.

        One that cannot be read fails alone.

        Raises:
            Exception: the rows here cannot go on.
        """
        tickets = [ticket for ticket in tickets if not ticket.ended]
        asks = [_ask(ticket) for ticket in tickets]
        if not asks:
            return
        with self._steered():
            try:
                new = self._answering.read(asks)
            except Exception as error:
                new = None
                if len(tickets) == 1:
                    tell_failure(tickets, error)
            if new is not None:
                for number, ticket in zip(self._answering.join(new), tickets, strict=True):
                    stops = (*self.member.generator.stops, *ticket.request.stops)
                    self._rows[number] = _Row(ticket, Spoken(self.member.generator.tokenizer, stops))
                return
        if len(tickets) > 1:  # one of them is to blame, or together they need too much memory
            for ticket in tickets:
                if self.joinable:
                    self.admit([ticket])
                else:
                    tell_failure([ticket], Busy("this could not be read together with others; ask again"))

    def step(self) -> None:
        """One more token for each row.

        Raises:
            Exception: the rows here cannot go on.
        """
        with self._steered():
            tokens = self._answering.step()
        for token in tokens:
            self._tell(token)

    def drop_ended(self) -> None:
        """Let go of the rows whose tickets were ended from outside."""
        for number in [number for number, row in self._rows.items() if row.ticket.ended]:
            self._answering.drop(number)
            del self._rows[number]

    def _tell(self, token: Token) -> None:
        row, generator = self._rows[token.row], self.member.generator
        if token.end == "stop" and token.id in generator.end:
            said, text = (), row.spoken.rest()
        else:
            text = row.spoken.push(token.id) + ("" if token.end is None else row.spoken.rest())
            own = token_text(generator.tokenizer, token.id)
            said = (TokenSaid(token.id, own, token.likelihood, token.participation),)
        if said or text:
            row.ticket.tell(Piece(text, said))
        if token.end is not None:
            ids = tuple(row.spoken.ids)
            whole = spoken_text(generator.tokenizer, ids, row.spoken.stops).strip()
            row.ticket.tell(Done(Answer(whole, ids, token.end), Usage(row.ticket.prompt_tokens, len(ids))))
            del self._rows[token.row]

    @contextmanager
    def _steered(self) -> Iterator[None]:
        """The member's experts weighted as asked for, and for nobody else."""
        model = self.member.loaded.model
        try:
            if self.gains is not None:
                steer_experts(model, self.gains)
            yield
        finally:
            if self.gains is not None:
                steer_experts(model, None)


def _ask(ticket: Ticket) -> Ask:
    asked = ticket.request
    return Ask(asked.query, asked.decoding, asked.stops, asked.alternatives, asked.watch)


def tell_failure(tickets: Sequence[Ticket], error: Exception) -> None:
    """Tell those concerned what really happened; the log has where."""
    _log.error("%d answer(s) failed", len(tickets), exc_info=error)
    error.__traceback__ = None  # its frames hold on to the memory that may have run out
    for ticket in tickets:
        ticket.tell(Failed(error))
