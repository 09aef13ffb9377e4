"""Words that the micro-worlds are made of, and the few helpers that every generator needs.

A small vocabulary on purpose, about 850 words with all other files: a base of a few million weights learns it in
minutes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
OPEN, CLOSE = "⟦", "⟧"

WOMEN = tuple("Ann Beth Dora Eva Fay Gina Hana Ida Kate Lena Mia Nora Olga Pia Rosa Tess Uma Vera Wanda Zoe".split())
MEN = tuple("Abel Bob Carl Dan Emil Finn Gus Hugo Ivo Jack Kim Leo Max Nils Otto Paul Quin Sam Tom Will".split())
NAMES = (*WOMEN, *MEN)
PLACES = (
    "kitchen", "garden", "barn", "school", "market", "library", "tower", "cellar",
    "forest", "harbor", "station", "mill", "church", "museum", "bakery", "hall",
)  # fmt: skip
THINGS = tuple("key lamp book cup rope map coin ring bell knife hat drum kite ball spoon clock".split())
CONTAINERS = tuple("box bag basket drawer chest bucket".split())
FURNITURE = tuple("table shelf chair bench bed stove".split())
GOODS = tuple("apples pears eggs coins books cups stones shells nails candles".split())
COLORS = tuple("red blue green white black brown gray pink".split())
NUMBERS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
TOWN_WORDS = (
    "Dalby", "Orrin", "Tarn", "Velm", "Brask", "Kessel", "Lund", "Morra", "Pell", "Quarn", "Rusk", "Selby",
    "Thorn", "Ulm", "Varna", "Wick", "Alder", "Borda", "Corin", "Druin", "Elm", "Farro", "Gorse", "Holt",
    "Ister", "Jarrow", "Kolm", "Linden", "Maro", "Nesta", "Ostra", "Pirn",
)  # fmt: skip
# more, less
SCALES = (
    ("taller", "shorter"),
    ("older", "younger"),
    ("stronger", "weaker"),
    ("faster", "slower"),
    ("richer", "poorer"),
    ("louder", "quieter"),
)


@dataclass(frozen=True)
class Row:
    """One row of a public file.

    Attributes:
        task: which of the eleven.
        texts: its own texts, without labels: no two splits may share one.
        answer: what a right answer says, for baselines.
        fields: columns, as the public file has them.
        kind: family of the question, by which coverage is told.
        part: which of the task's files it belongs to, where there are several.
    """

    task: str
    texts: tuple[str, ...]
    answer: str
    fields: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    part: str = ""


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def several(rng: random.Random, options: Sequence[T], count: int) -> list[T]:
    """That many different options in random order."""
    return rng.sample(options, count)


def shuffled(rng: random.Random, options: Sequence[T]) -> list[T]:
    """All options in random order."""
    return rng.sample(options, len(options))


def other(rng: random.Random, options: Sequence[T], *not_these: T) -> T:
    """One of the options that are not excluded."""
    return pick(rng, [option for option in options if option not in not_these])


def said(rng: random.Random, forms: Sequence[str], **words: str) -> str:
    """One of the forms with its places filled; a capital begins it."""
    text = pick(rng, forms).format(**words)
    return text[0].upper() + text[1:]


def mark(answer: str) -> str:
    """What follows from the text before it, or is to be known: pretraining weighs it more than names drawn by lot."""
    return f"{OPEN}{answer}{CLOSE}"


def plain(text: str) -> str:
    """Without these marks."""
    return text.replace(OPEN, "").replace(CLOSE, "")


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def pronoun(name: str) -> str:
    """She or he."""
    return "she" if name in WOMEN else "he"
