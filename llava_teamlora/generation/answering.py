"""Rows being answered together: some join, some leave, between two steps.

In: asks. Out: each row's tokens, one a step, with what was wished to be known of them. What a row answers does not
depend on the rows beside it, nor on when they come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from llava_teamlora.generation.fixed import FixedState
from llava_teamlora.generation.query import Decoding, Query
from llava_teamlora.generation.reader import State
from llava_teamlora.generation.routing import Routing
from llava_teamlora.generation.sampling import choose, source

if TYPE_CHECKING:
    from llava_teamlora.generation.generator import Generator


@dataclass(frozen=True)
class Ask:
    """One row wanted.

    Attributes:
        query: what is asked.
        decoding: how its tokens are chosen; beams cannot be.
        stops: texts that end the answer and are no part of it, beside the template's own.
        alternatives: how many of the likeliest tokens to tell at each step, with their log-probabilities and the
            chosen one's; None tells nothing.
        watch: tell which experts took part in each token.
    """

    query: Query
    decoding: Decoding = field(default_factory=Decoding)
    stops: tuple[str, ...] = ()
    alternatives: int | None = None
    watch: bool = False


@dataclass(frozen=True)
class Likelihood:
    """How likely a token was, before temperature and nucleus.

    Attributes:
        log_probability: natural, of the chosen token.
        alternatives: the likeliest tokens and their log-probabilities, likeliest first.
    """

    log_probability: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Token:
    """A row's newest token.

    Attributes:
        row: the row's number, as ``Answering.add`` gave it.
        id: the token.
        end: None while the row goes on; ``stop`` at an end token (this one, no part of the answer) or once a text
            that ends the answer stands in it; ``length`` at the budget or the model's last position.
        likelihood: as asked for.
        participation: omega of each expert in each routed layer, in the pass that chose the token, ``[layers, k]``;
            as asked for, and None where the model has no routed adapter.
    """

    row: int
    id: int
    end: Literal["stop", "length"] | None = None
    likelihood: Likelihood | None = None
    participation: torch.Tensor | None = None


@dataclass(frozen=True)
class Newcomers:
    """Rows whose prompts have been read, and who are not among those being answered yet."""

    asks: Sequence[Ask]
    prompts: list[list[int]]
    state: State
    participation: torch.Tensor | None


@dataclass
class _Row:
    number: int
    ask: Ask
    budget: int
    source: torch.Generator | None
    written: list[int] = field(default_factory=list)


class Answering:
    """The rows that one generator is answering. Truthy while there are any.

    Args:
        generator: whose model, template and limits.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._rows: list[_Row] = []
        self._count = 0
        self._state: State | None = None
        self._waiting: list[int] = []  # the rows' newest tokens, which the model has not seen
        self._participation: torch.Tensor | None = None  # [B, layers, k], of the newest pass

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def joinable(self) -> bool:
        """Whether rows may be added now: at any time with a growing cache, else only when there are none."""
        return not self._rows or (self.generator.fixed is None and self._state is not None and self._state.joinable)

    def add(self, asks: Sequence[Ask]) -> list[int]:
        """Read prompts, to be answered from the next step on.

        Returns:
            The rows' numbers.

        Raises:
            UserError: a prompt cannot be answered; then none of them is added. See ``Generator.encode``.
        """
        return self.join(self.read(asks)) if asks else []

    @torch.inference_mode()
    def read(self, asks: Sequence[Ask]) -> Newcomers:
        """Read prompts, at least one. Whatever goes wrong here, the rows being answered are as they were.

        Raises:
            UserError: see ``Generator.encode``.
        """
        prompts = [self.generator.encode(ask.query) for ask in asks]
        with self._listening(ask.watch for ask in asks) as routing:
            state = self.generator._prefill([ask.query for ask in asks], prompts)
        return Newcomers(asks, prompts, state, None if routing is None else routing.newest())

    @torch.inference_mode()
    def join(self, new: Newcomers) -> list[int]:
        """Answer rows that have been read from the next step on.

        Returns:
            Their numbers.

        Raises:
            RuntimeError: the rows here cannot take in others, see :attr:`joinable`.
        """
        if not self.joinable:
            raise RuntimeError("these rows' cache cannot take in others: wait until they are done")
        self._feed()
        if self._state is None or not self._rows:
            self._state, self._participation = new.state, new.participation
        else:
            self._participation = _stacked(self._participation, new.participation, len(self._rows), len(new.asks))
            self._state.join(new.state)
        room = self.generator.positions
        rows = [
            _Row(
                self._count + i,
                ask,
                min(ask.decoding.max_new_tokens, room - len(prompt)),
                source(ask.decoding, prompt),
            )
            for i, (ask, prompt) in enumerate(zip(new.asks, new.prompts, strict=True))
        ]
        self._count += len(rows)
        self._rows += rows
        return [row.number for row in rows]

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Choose each row's next token, in the order of the rows. Rows that end with it leave."""
        self._feed()
        if self._state is None or not self._rows:
            return []
        logits = self.generator.forbid(None, self._state.logits)
        ids = choose(logits, [row.ask.decoding for row in self._rows], [row.source for row in self._rows])
        tokens = []
        for at, (row, token) in enumerate(zip(self._rows, ids, strict=True)):
            row.written.append(token)
            seen = self._participation if row.ask.watch else None
            tokens.append(
                Token(
                    row.number,
                    token,
                    self._end(row),
                    _likelihood(logits[at], token, row.ask.alternatives),
                    None if seen is None else seen[at],
                )
            )
        self._waiting = ids
        self._keep([at for at, token in enumerate(tokens) if token.end is None])
        return tokens

    @torch.inference_mode()
    def drop(self, number: int) -> None:
        """Let a row go unfinished; one that has ended already is passed over."""
        self._keep([at for at, row in enumerate(self._rows) if row.number != number])

    def _end(self, row: _Row) -> Literal["stop", "length"] | None:
        if self.generator.ended(row.written, row.ask.stops):
            return "stop"
        return "length" if len(row.written) >= row.budget else None

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self._rows) or self._state is None:
            return
        self._rows = [self._rows[at] for at in places]
        self._waiting = [self._waiting[at] for at in places] if self._waiting else []
        if not places:
            self._state = self._participation = None
            return
        self._state.keep(places)
        if self._participation is not None:
            self._participation = self._participation[places]

    def _feed(self) -> None:
        """Show the model the rows' newest tokens."""
        if not self._waiting or self._state is None:
            return
        if self.generator.fixed is not None and not isinstance(self._state, FixedState):
            self._state = self.generator.fixed.start(self._state, max(row.budget for row in self._rows))
        with self._listening(row.ask.watch for row in self._rows) as routing:
            self.generator._advance(self._state, self._waiting)
        self._participation = None if routing is None else routing.newest()
        if self._participation is not None and isinstance(self._state, FixedState):
            self._participation = self._participation[self._state.places.cpu()]  # rows that are done are passed too
        self._waiting = []

    def _listening(self, watched: Iterable[bool]) -> AbstractContextManager[Routing | None]:
        return Routing(self.generator) if any(watched) else nullcontext()


def _likelihood(logits: torch.Tensor, token: int, alternatives: int | None) -> Likelihood | None:
    if alternatives is None:
        return None
    likely = logits.float().log_softmax(-1)  # [V]
    top = likely.topk(alternatives)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Likelihood(float(likely[token]), tuple(pairs))


def _stacked(one: torch.Tensor | None, other: torch.Tensor | None, rows: int, others: int) -> torch.Tensor | None:
    """Participations of rows and of others below them; of those that nobody watches, nan."""
    known = one if one is not None else other
    if known is None:
        return None
    parts = [part if part is not None else known.new_full((n, *known.shape[1:]), torch.nan) for part, n in
             ((one, rows), (other, others))]  # fmt: skip
    return torch.cat(parts)
