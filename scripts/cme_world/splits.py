"""The eleven tasks' rows, training and test, no two of which share a text.

In: a seed and counts. Out: rows in a fixed order. Test rows are made first; a training row that repeats a text of
theirs, or thirteen words in a row, is made anew. Chinese counts by character.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable

from llava_teamlora.errors import UserError

from . import china, events, inference, opinions, posts, questions, schemas, science, subjects
from .atlas import PEOPLE_FACTS, TOWN_FACTS, Fact
from .words import Row

GRAM = 13
_WORDS = re.compile(r"[\u4e00-\u9fff]|[^\W_]+")
_MISSES = 2000  # in a row: what is left to be found is not worth the search

RowMaker = Callable[[random.Random, int], list[Row]]


def normalised(text: str) -> tuple[str, ...]:
    """Words in lower case; Chinese characters stand alone."""
    return tuple(_WORDS.findall(text.lower()))


def grams(text: str) -> set[tuple[str, ...]]:
    """The whole text, and all its runs of thirteen words."""
    words = normalised(text)
    return {words} | {words[start : start + GRAM] for start in range(len(words) - GRAM + 1)}


class Guard:
    """Remembers texts, and says whether another one repeats them."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, ...]] = set()

    def add(self, texts: Iterable[str]) -> None:
        """Remember these."""
        for text in texts:
            self.seen |= grams(text)

    def repeats(self, texts: Iterable[str]) -> bool:
        """Whether one of these is remembered, or has thirteen words in a row that are."""
        return any(self.seen & grams(text) for text in texts)


def _one(maker: Callable[[random.Random, int], Row]) -> RowMaker:
    return lambda rng, number: [maker(rng, number)]


def _asked(facts: Iterable[Fact], tested: bool) -> list[Fact]:
    return [fact for fact in facts if fact.tested == tested]


def makers(tested: bool) -> dict[str, RowMaker]:
    """What makes the rows of each task; closed-book tasks ask one half of the facts in training, the other in tests."""
    towns, people, chinese = (_asked(facts, tested) for facts in (TOWN_FACTS, PEOPLE_FACTS, china.FACTS))
    return {
        "tldr": _one(posts.tldr_row),
        "imdb": _one(opinions.imdb_row),
        "anli": _one(inference.anli_row),
        "qqp": _one(events.qqp_row),
        "rte": _one(events.rte_row),
        "winogrande": lambda rng, number: list(schemas.twins(rng, number)),
        "arc": _one(science.arc_row),
        "webqa": _one(lambda rng, number: china.webqa_row(rng, chinese, number)),
        "nq": _one(lambda rng, number: questions.nq_row(rng, towns, number)),
        "triviaqa": _one(lambda rng, number: questions.triviaqa_row(rng, people, number)),
        "mmlu": _one(lambda rng, number: subjects.mmlu_row(rng, towns, number)),
    }


TASKS = tuple(makers(True))


def _made(maker: RowMaker, rng: random.Random, count: int, avoided: Guard) -> list[Row]:
    """`count` rows, none like another one nor like those to be avoided."""
    rows: list[Row] = []
    own: set[tuple[str, ...]] = set()
    misses = 0
    while len(rows) < count:
        made = maker(rng, len(rows))
        identities = [sum((normalised(text) for text in row.texts), ()) for row in made]
        if any(identity in own for identity in identities) or any(avoided.repeats(row.texts) for row in made):
            misses += 1
            if misses > _MISSES:
                raise UserError(f"{made[0].task}: the world has no {count} different rows; ask for about {len(rows)}")
            continue
        misses = 0
        own.update(identities)
        rows += made
    return rows[:count]


def test_rows(seed: int, test: int) -> dict[str, list[Row]]:
    """Task -> its test rows."""
    return {
        name: _made(maker, random.Random(f"{seed} {name} test"), test, Guard()) for name, maker in makers(True).items()
    }


def splits(seed: int, train: int, test: int) -> dict[str, tuple[list[Row], list[Row]]]:
    """Task -> its training rows and its test rows."""
    tests = test_rows(seed, test)
    guard = Guard()
    for rows in tests.values():
        for row in rows:
            guard.add(row.texts)
    return {
        name: (_made(maker, random.Random(f"{seed} {name} train"), train, guard), tests[name])
        for name, maker in makers(False).items()
    }
