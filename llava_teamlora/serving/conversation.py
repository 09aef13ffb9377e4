"""A conversation as a value: what was asked, about which pictures, and what was answered with which settings.

Nothing here changes in place: every method gives a new conversation. Two models side by side are two conversations, an
answer that fails leaves the one that there was, and to undo is to drop what came last. No model is needed; what a
model takes comes out of :meth:`Conversation.query`. ``conversation_file.py`` writes and reads it as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava_teamlora.generation import Decoding, Query


def now() -> str:
    """The time, as ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Picture:
    """A picture, RGB, and what it is called."""

    name: str
    image: Image


@dataclass(frozen=True)
class Settings:
    """What one answer was made with.

    Attributes:
        model: its name, as people choose it by.
        template: the name of its conversation template.
        decoding: how its tokens were chosen.
        gains: of the experts, one each; None where they were left alone.
    """

    model: str
    template: str
    decoding: Decoding
    gains: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: what was said.
        ended: ``stop`` by itself, ``length`` at its longest, ``stopped`` midway by its reader.
        settings: what it was made with.
        time: when it was complete.
    """

    text: str
    ended: Literal["stop", "length", "stopped"]
    settings: Settings
    time: str = field(default_factory=now)


@dataclass(frozen=True)
class Exchange:
    """A question, as it was typed, the pictures shown with it, and its answer, None while there is none."""

    question: str
    pictures: tuple[Picture, ...] = ()
    reply: Reply | None = None


@dataclass(frozen=True)
class Conversation:
    """Questions and answers so far.

    Attributes:
        exchanges: all but the last of them answered.
        waiting: pictures for the next question.
        system: the system prompt; None is the template's own.
    """

    exchanges: tuple[Exchange, ...] = ()
    waiting: tuple[Picture, ...] = ()
    system: str | None = None

    @property
    def open(self) -> bool:
        """Whether the last question waits for its answer."""
        return bool(self.exchanges) and self.exchanges[-1].reply is None

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All that were asked about, in the order of their places in the prompt."""
        return tuple(picture for exchange in self.exchanges for picture in exchange.pictures)

    def show(self, *pictures: Picture) -> Conversation:
        """With more pictures for the next question."""
        return replace(self, waiting=(*self.waiting, *pictures))

    def unshow(self) -> Conversation:
        """Without the pictures that no question is about yet."""
        return replace(self, waiting=())

    def ask(self, question: str) -> Conversation:
        """With a question about the pictures that wait, to be answered.

        Raises:
            UserError: an empty question, one that holds ``IMAGE_TOKEN``, or one that was asked before still waits.
        """
        if self.open:
            raise UserError("the last question has no answer yet; have it answered, or undo it")
        return replace(self, exchanges=(*self.exchanges, _asked(question, self.waiting)), waiting=())

    def answered(self, reply: Reply) -> Conversation:
        """With the answer to the question that waits."""
        if not self.open:
            raise ValueError("no question waits for an answer")
        return self._ending_in(replace(self.exchanges[-1], reply=reply))

    def undo(self) -> Conversation:
        """Without the last question and its answer.

        Raises:
            UserError: there is none.
        """
        return replace(self, exchanges=self.exchanges[: self._last("undo")])

    def regenerate(self) -> Conversation:
        """With the last question to be answered once more.

        Raises:
            UserError: there is none.
        """
        return self._ending_in(replace(self.exchanges[self._last("answer again")], reply=None))

    def edit(self, index: int, question: str) -> Conversation:
        """With a question in other words, to be answered; what followed it is dropped, its pictures stay.

        Args:
            index: of the exchange, from 0; below 0 from the end.
            question: the other words.

        Raises:
            UserError: no such question, or see :meth:`ask`.
        """
        last = self._last("edit")
        at = index if index >= 0 else last + 1 + index
        if not 0 <= at <= last:
            raise UserError(f"there is no question {index}; they are numbered 0 to {last}")
        return replace(self, exchanges=(*self.exchanges[:at], _asked(question, self.exchanges[at].pictures)))

    def clear(self) -> Conversation:
        """Without anything but the system prompt."""
        return Conversation(system=self.system)

    def query(self) -> Query:
        """What a model is asked: all of it, ending in the open question.

        Raises:
            UserError: an answer holds ``IMAGE_TOKEN``.
        """
        from llava_teamlora.data.records import Turn
        from llava_teamlora.generation import Query
        from llava_teamlora.generation.query import question

        turns = []
        for exchange in self.exchanges:
            turns.append(question(exchange.question, len(exchange.pictures)))
            if exchange.reply is not None:
                turns.append(Turn("gpt", exchange.reply.text))
        return Query(tuple(turns), tuple(picture.image for picture in self.pictures), self.system)

    def _last(self, deed: str) -> int:
        if not self.exchanges:
            raise UserError(f"there is no question to {deed} yet")
        return len(self.exchanges) - 1

    def _ending_in(self, exchange: Exchange) -> Conversation:
        return replace(self, exchanges=(*self.exchanges[:-1], exchange))


def _asked(question: str, pictures: tuple[Picture, ...]) -> Exchange:
    if not question.strip():
        raise UserError("the question is empty")
    if IMAGE_TOKEN in question:
        raise UserError(f"the text holds {IMAGE_TOKEN}, which marks a picture's place; leave it out")
    return Exchange(question, pictures)
