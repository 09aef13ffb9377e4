"""What a conversation template is: turns -> text segments that know whether they are trained on.

In: a record's turns. Out: a list of :class:`Segment`; their texts joined are the prompt. Masks follow from the segments
by construction; nothing is recovered by splitting rendered text. ``templates.py`` has the templates by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class Segment:
    """A stretch of prompt text. ``IMAGE_TOKEN`` inside it stands for one picture.

    Attributes:
        text: with the names of special tokens in it.
        trained: whether it carries a loss.
        apart: whether it is tokenized by itself, whatever stands before it.
    """

    text: str
    trained: bool
    apart: bool = False


def given(text: str) -> Segment:
    return Segment(text, trained=False)


def trained(text: str) -> Segment:
    return Segment(text, trained=True)


@dataclass(frozen=True)
class Template:
    """How turns become text. In ``human`` and ``gpt`` the turn's text stands for ``{}``.

    Attributes:
        name: the template's first name in TEMPLATES.
        opening: before everything, the system prompt in it.
        human: a question, and what asks for its answer.
        gpt: an answer, and what ends it.
        between: before every question but the first.
        closing: after the last answer.
        end: the token that ends an answer; None if none does.
        stop: the text that ends an answer where no token does.
        image: how one picture stands in a question.
        trim: whether white space around a turn's text is dropped.
        bare: whether the text holds all special tokens itself, so that the tokenizer puts no bos in front.
        system: the system prompt; None if the template has no place for one.
    """

    name: str
    opening: tuple[Segment, ...]
    human: tuple[Segment, ...]
    gpt: tuple[Segment, ...]
    between: tuple[Segment, ...] = ()
    closing: tuple[Segment, ...] = ()
    end: str | None = None
    stop: str | None = None
    image: str = IMAGE_TOKEN
    trim: bool = False
    bare: bool = False
    system: str | None = None

    def for_tokenizer(self, tokenizer: Any) -> Template:
        """This template as a model with that tokenizer has it: the same, but for those that follow the tokenizer.

        Args:
            tokenizer: the model's.

        Raises:
            UserError: the tokenizer lacks what the template is made of.
        """
        return self

    def with_system(self, system: str) -> Template:
        """This template with another system prompt in the place of its own.

        Args:
            system: the text.

        Raises:
            UserError: the template has no place for one.
        """
        if not self.system:
            raise UserError(f"--version {self.name} has no place for a system prompt; leave it out")
        opening = (replace(piece, text=piece.text.replace(self.system, system)) for piece in self.opening)
        return replace(self, opening=tuple(opening), system=system)

    def segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """Segments of a whole conversation, or of a prompt when the last turn is the human's.

        Args:
            turns: human, gpt, human, …; ``IMAGE_TOKEN`` in a question is a picture's place.

        Raises:
            UserError: turns that the template has no form for.
        """
        pieces = [*self.opening]
        for position, turn in enumerate(turns):
            if turn.role == "human":
                pieces += self.between if position else ()
                pieces += self._filled(self.human, turn.text.replace(IMAGE_TOKEN, self.image))
            else:
                pieces += self._filled(self.gpt, turn.text)
        return [*pieces, *self.closing] if len(turns) and len(turns) % 2 == 0 else pieces

    def _filled(self, pattern: tuple[Segment, ...], text: str) -> Iterator[Segment]:
        for piece in pattern:
            before, slot, after = piece.text.partition("{}")
            filling = (text.strip() if self.trim else text) if slot else ""
            yield replace(piece, text=before + filling + after)


@dataclass(frozen=True)
class Plain(Template):
    """For projector pre-training: picture, caption, newline. The human's text is discarded."""

    def segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """See :meth:`Template.segments`.

        Raises:
            UserError: not one picture, or not one human and at most one gpt turn.
        """
        if not 1 <= len(turns) <= 2 or turns[0].text.count(IMAGE_TOKEN) != 1:
            raise UserError(f"--version {self.name} takes one picture, one human turn and one caption a record")
        # The bare picture also where the others wrap it: LLaVA's preprocess_plain drops <im_start> and <im_end>.
        return [given(IMAGE_TOKEN), *self._filled(self.gpt, turns[-1].text if len(turns) == 2 else "")][: len(turns)]


@dataclass(frozen=True)
class OwnEnd(Template):
    """Ends questions and answers in the end that the tokenizer itself has: ``</s>``, ``<|end_of_text|>``, …"""

    def for_tokenizer(self, tokenizer: Any) -> Template:
        """See :meth:`Template.for_tokenizer`.

        Raises:
            UserError: a tokenizer without an end.
        """
        end = tokenizer.eos_token
        if end is None:
            raise UserError(
                f"--version {self.name} ends answers in the tokenizer's eos_token, but that of "
                f"{tokenizer.name_or_path} has none; set it in its tokenizer_config.json"
            )
        assert self.end is not None
        human, gpt = (
            tuple(replace(piece, text=piece.text.replace(self.end, end)) for piece in pattern)
            for pattern in (self.human, self.gpt)
        )
        return replace(self, human=human, gpt=gpt, end=end)
