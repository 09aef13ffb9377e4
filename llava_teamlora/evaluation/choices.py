"""Multiple choice: how options are asked, how an answer becomes a letter, and answers that need no model.

Shared by MMBench, SEED-Bench and ScienceQA, each of which has an official parse of its own, and CME. The one that reads
more than a bare letter, :func:`infer_letter`, is here, for it stands for a page of rules. It follows VLMEvalKit, which
scores MMBench: ``can_infer`` in ``vlmeval/utils/matching_util.py`` (commit e8e78f0), the step before any judge model.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Sequence

from llava_teamlora.evaluation.types import Baseline, Sample

LETTERS = string.ascii_uppercase
SUFFIX = "Answer with the option's letter from the given choices directly."
"""What LLaVA-1.5 was tuned to answer with a bare letter."""

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# A letter counts only among the last so many words: "A man is riding a horse" answers nothing.
_TAIL = 4
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
# Differs from VLMEvalKit: the letter stands alone and is a capital; there "the answer is dog" is option D.
_STATED = re.compile(r"(?i:answer\s+is)\s+\**([A-D])(?![A-Za-z])")


def option_lines(choices: Sequence[str]) -> str:
    """``A. …``, ``B. …``, one a line."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def ask(question: str, choices: Sequence[str], suffix: str = SUFFIX) -> str:
    """The human turn: question, options, what to answer with."""
    return "\n".join(part for part in (question, option_lines(choices), suffix) if part)


def context(prompt: str, question: str, choices: Sequence[str]) -> str | None:
    """What a prompt says before the question and just these options, in their order; None if it does not ask them.

    After them stands ``SUFFIX``, or nothing. White space is not compared.
    """
    wanted, asked = " ".join(ask(question, choices, "").split()), " ".join(prompt.split())
    asked = asked.removesuffix(SUFFIX).rstrip()
    if asked != wanted and not asked.endswith(f" {wanted}"):
        return None
    return asked.removesuffix(wanted).rstrip()


def infer_letter(text: str, choices: Sequence[str]) -> str:
    """The one option that an answer names, or ``""``.

    In this order: a letter that stands alone, near the end, and is the only one; ``answer is B``; the one option whose
    text stands in the answer, if that is not much longer than the options.

    Differs from VLMEvalKit: what is left is given to a judge model there. Here Chinese around a letter, which hides it
    from the rules above (``答案是A。``), is taken for spaces, and nothing else is tried.
    """
    if any(refusal in text for refusal in _REFUSALS):
        return ""
    letters = LETTERS[: len(choices)]
    return (
        _lone_letter(text, letters)
        or _stated_letter(text, letters)
        or _named_option(text, choices)
        or ("" if text.isascii() else _lone_letter(_latin_only(text), letters))
    )


def _lone_letter(text: str, letters: str) -> str:
    words = text.translate(_SEPARATORS).split()
    found = [letter for letter in letters if letter in words]
    near_the_end = len(found) == 1 and words.index(found[0]) >= len(words) - _TAIL
    return found[0] if near_the_end else ""


def _stated_letter(text: str, letters: str) -> str:
    match = _STATED.search(text)
    return match[1] if match and match[1] in letters else ""


def _named_option(text: str, choices: Sequence[str]) -> str:
    if len(text) > 2 * sum(map(len, choices)):
        return ""
    lower = text.lower()
    named = [letter for letter, choice in zip(LETTERS, choices, strict=False) if choice.lower() in lower]
    return named[0] if len(named) == 1 else ""


def _latin_only(text: str) -> str:
    """Full-width letters made plain, everything that is not ASCII made a space."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(character if character.isascii() else " " for character in plain)


def guesses(samples: Sequence[Sample]) -> dict[str, Baseline]:
    """Answers that look at nothing: always the first option, and one drawn by the question's key."""
    return {
        "always A": Baseline("always the first option", {sample.key: "A" for sample in samples}),
        "random": Baseline(
            "an option drawn evenly, by a digest of the question's key",
            {sample.key: LETTERS[_draw(sample.key, len(sample.choices))] for sample in samples},
        ),
    }


def _draw(key: str, count: int) -> int:
    # LLaVA's reading of MMBench leaves some questions without any option.
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % max(count, 1)
