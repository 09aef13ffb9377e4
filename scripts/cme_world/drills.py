"""The shortest exercises of the corpus: looking up, comparing, choosing, a few words each and many answers a line.

Longer exercises ask for the same in sentences; what finds its like in a list soon finds it there too.
In: a random generator. Out: one exercise, a line of text with its answers marked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .lessons import lettered
from .nature import ANIMALS, MATERIALS
from .words import (
    COLORS,
    CONTAINERS,
    DAYS,
    FURNITURE,
    GOODS,
    MONTHS,
    NAMES,
    NUMBERS,
    PLACES,
    SCALES,
    THINGS,
    TOWN_WORDS,
    mark,
    other,
    pick,
    several,
    shuffled,
)

KEYS = (NAMES, NAMES, THINGS, THINGS, GOODS, TOWN_WORDS)
VALUES = (PLACES, COLORS, FURNITURE, CONTAINERS, NUMBERS[2:10], tuple(more for more, _ in SCALES))
POOLS = (*KEYS, PLACES, COLORS, DAYS, MONTHS, NUMBERS, MATERIALS, tuple(animal.name for animal in ANIMALS))
GLUE = ("", "", "is", "is in the", "has")


def _pairs(rng: random.Random, count: int) -> tuple[Sequence[str], Sequence[str], list[tuple[str, str]]]:
    keys, values = pick(rng, KEYS), pick(rng, VALUES)
    return keys, values, list(zip(several(rng, keys, count), several(rng, values, count), strict=True))


def _said(glue: str, one: str, two: str) -> str:
    return f"{one} {glue} {two}" if glue else f"{one} {two}"


def paired(rng: random.Random) -> str:
    """What stood beside a word."""
    _, _, pairs = _pairs(rng, pick(rng, (2, 3, 4)))
    glue = pick(rng, GLUE)
    told = ", ".join(_said(glue, *pair) for pair in pairs)
    rounds = (", ".join(_said(glue, one, mark(two)) for one, two in shuffled(rng, pairs)) for _ in range(2))
    return ". ".join([told, *rounds])


def checked(rng: random.Random) -> str:
    """Whether a pair was named: yes; one of its words beside another: no; a word that was not: maybe."""
    keys, values, pairs = _pairs(rng, pick(rng, (1, 2, 2, 3)))
    glue = pick(rng, GLUE)
    asked = []
    for one, two in shuffled(rng, pairs * 2):
        kind = rng.random()
        if kind < 1 / 3:
            asked.append(f"{_said(glue, one, two)} {mark('yes')}")
        elif kind < 2 / 3:
            asked.append(f"{_said(glue, one, other(rng, values, two))} {mark('no')}")
        else:
            stranger = other(rng, keys, *(key for key, _ in pairs))
            asked.append(f"{_said(glue, stranger, pick(rng, pairs)[1])} {mark('maybe')}")
    return f"{', '.join(_said(glue, *pair) for pair in pairs)}. {', '.join(asked)}"


def compared(rng: random.Random) -> str:
    """Whether other words are the same ones, in any order."""
    words = [pick(rng, pool) for pool in several(rng, POOLS[2:], pick(rng, (1, 2, 2, 3)))]
    asked = []
    for _ in range(4):
        again, same = shuffled(rng, words), rng.random() < 0.5
        if not same:
            place = int(rng.random() * len(again))
            pool = next(pool for pool in POOLS if again[place] in pool)
            again[place] = other(rng, pool, *words)
        asked.append(f"{' '.join(again)} {mark('same' if same else 'different')}")
    return f"{' '.join(words)}. {', '.join(asked)}"


def chosen(rng: random.Random) -> str:
    """The letters of words in a list."""
    options = several(rng, pick(rng, POOLS), pick(rng, (2, 3, 4, 4)))
    asked = shuffled(rng, [*zip("ABCD", options, strict=False)])
    kind = rng.random()
    if kind < 0.5:
        return f"{lettered(options)}. {', '.join(f'{option} {mark(sign)}' for sign, option in asked)}"
    sign, option = asked[0]
    return f"{option}? {lettered(options)}{pick(rng, ('</s>', ': '))}{mark(sign)}"
