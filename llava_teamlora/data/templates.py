"""Conversations -> text segments that know whether they are trained on.

In: a record's turns. Out: a list of :class:`Segment`; their texts joined are the prompt, and those with
``trained=True`` are exactly the assistant's answers with their end marker. Masks follow from the segments by
construction; nothing is ever recovered by splitting rendered text. Source: LLaVA ``conversation.py``
(``vicuna_v1``, ``plain``) and ``preprocess_v1`` / ``preprocess_plain`` for what is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError, nearest


@dataclass(frozen=True)
class Segment:
    """A stretch of prompt text. ``IMAGE_TOKEN`` inside it stands for one picture."""

    text: str
    trained: bool


class Template(Protocol):
    """How turns become text."""

    @property
    def name(self) -> str:
        """The template's name in TEMPLATES."""
        ...

    @property
    def end(self) -> str | None:
        """What ends an answer, and must be the tokenizer's end token; None if answers do not end in one."""
        ...

    def segments(self, turns: Sequence[Turn], images: int = 0, image_turn: int | None = None) -> list[Segment]:
        """Segments of a whole conversation, or of a prompt when the last turn is the human's.

        Args:
            turns: human, gpt, human, …; ending in a human turn asks for an answer.
            images: number of pictures, all placed before the text of ``image_turn``.
            image_turn: index into ``turns``; None without pictures.
        """
        ...


def with_images(text: str, images: int) -> str:
    """LLaVA's form of a turn with pictures: one ``<image>\\n`` each, then the text."""
    return (IMAGE_TOKEN + "\n") * images + text


@dataclass(frozen=True)
class Vicuna:
    """``v1``: system, then ``USER: q ASSISTANT: a</s>USER: …`` with no space after ``</s>``."""

    name: str
    system: str
    end: str | None = "</s>"

    def segments(self, turns: Sequence[Turn], images: int = 0, image_turn: int | None = None) -> list[Segment]:
        """See :meth:`Template.segments`."""
        pieces = [Segment(self.system + " ", trained=False)]
        for position, turn in enumerate(turns):
            if turn.role == "human":
                text = with_images(turn.text, images if position == image_turn else 0)
                pieces.append(Segment(f"USER: {text} ASSISTANT:", trained=False))
            else:
                pieces.append(Segment(f" {turn.text}{self.end}", trained=True))
        return pieces


@dataclass(frozen=True)
class Plain:
    """``plain``, for projector pre-training: picture, caption, newline. The human's text is discarded."""

    name: str
    end: str | None = None

    def segments(self, turns: Sequence[Turn], images: int = 0, image_turn: int | None = None) -> list[Segment]:
        """See :meth:`Template.segments`.

        Raises:
            UserError: not one picture, or not one human and at most one gpt turn.
        """
        if images != 1 or image_turn != 0 or len(turns) > 2:
            raise UserError("--version plain takes one picture, one human turn and one caption a record")
        caption = [Segment(turns[1].text + "\n", trained=True)] if len(turns) == 2 else []
        return [Segment(IMAGE_TOKEN, trained=False), *caption]


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

TEMPLATES: dict[str, Template] = {
    "v1": Vicuna("v1", _VICUNA_SYSTEM),
    "vicuna_v1": Vicuna("v1", _VICUNA_SYSTEM),
    "plain": Plain("plain"),
}


def get_template(version: str) -> Template:
    """The template of that name.

    Raises:
        UserError: an unknown name. LLaVA falls back to ``vicuna_v1`` in silence; we never do.
    """
    if version not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise UserError(f"--version {version!r} is not a template (known: {known}){nearest(version, TEMPLATES)}")
    return TEMPLATES[version]
