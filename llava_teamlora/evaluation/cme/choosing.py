"""Tasks whose answer is a letter: how options are shown, and how an answer is understood.

An answer that is one letter, of either case, with or without a period or brackets, is that letter; of others
``choices.infer_letter`` says what they name: a letter that stands alone near the end, "the answer is B", or the text
of one option. An answer that names no option, or several, is wrong, and counted as unparsed.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.choices import LETTERS, infer_letter
from llava_teamlora.evaluation.cme.task import Item, TextTask
from llava_teamlora.evaluation.types import Sample, Verdict


class LetterTask(TextTask):
    """A task of lettered options; its items have ``choices``."""

    max_new_tokens = 16
    metric = "accuracy"
    groups: tuple[str, ...] = ()

    def candidates(self, item: Item) -> tuple[str, ...]:
        """The letters, which are what training writes."""
        return tuple(LETTERS[: len(item.choices)])

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for the right letter; see the module's text."""
        parsed = parse_letter(text, sample.choices)
        return Verdict(parsed, float(parsed in sample.targets), {"unparsed": float(not parsed)})


def parse_letter(text: str, choices: Sequence[str]) -> str:
    """The letter of the option that an answer names, or ``""``; see the module's text."""
    bare = text.strip().strip("().:").upper()
    if len(bare) == 1 and bare in LETTERS[: len(choices)]:
        return bare
    return infer_letter(text, choices)


def lettered_question(question: str, choices: Sequence[str]) -> str:
    """``Question: …`` and below it ``Choices: A.x, B.y``, as the authors' records have it."""
    options = ", ".join(f"{letter}.{choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"Question: {question}\nChoices: {options}"


def letter_at(index: int, choices: Sequence[str], where: str) -> str:
    """The letter of the option at that place.

    Raises:
        UserError: there is no such option.
    """
    if not 0 <= index < len(choices):
        raise UserError(f"{where}: the answer is option {index + 1}, but there are {len(choices)}; is the row whole?")
    return LETTERS[index]
