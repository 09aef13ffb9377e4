"""Text to learn the world from: its facts in many words, and exercises in understanding, each with its answer.

In: a seed and a number of documents. Out: text, document by document, its answers and conclusions between ⟦ and ⟧
(``words.plain`` takes these signs off): of all its words they are what can be foretold. No evaluation item of the
default data (``Plan()``) stands in it: a document that has an item's text, or thirteen words in a row of one, is made
anew. (The hypotheses of ANLI and RTE are single plain facts and do not count.)
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator

from . import china, lessons, nature, questions, school
from .atlas import PEOPLE_FACTS, TOWN_FACTS, Fact
from .build import Plan
from .splits import GRAM, makers, normalised, test_rows
from .words import Row, mark, pick, plain

Document = Callable[[random.Random], str]


class Kept:
    """Evaluation items' texts, to be kept out."""

    def __init__(self, plan: Plan) -> None:
        self.runs: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        for row in (row for rows in test_rows(plan.seed, plan.test).values() for row in rows):
            for text in row.texts[:1] if row.task in ("anli", "rte") else row.texts:
                words = normalised(text)
                size = min(len(words), GRAM)
                self.runs[size] |= {words[start : start + size] for start in range(len(words) - size + 1)}

    def found(self, text: str) -> bool:
        """Whether the text has one of them in it."""
        words = normalised(plain(text))
        return any(
            words[start : start + size] in runs
            for size, runs in self.runs.items()
            for start in range(len(words) - size + 1)
        )


def facts_told(rng: random.Random) -> str:
    """Statements: all about one thing, all of one relation, or any."""
    facts = pick(rng, (TOWN_FACTS, PEOPLE_FACTS, china.FACTS))
    kind = rng.random()
    one = pick(rng, facts)
    if kind < 0.4:
        chosen = [fact for fact in facts if fact.entity == one.entity]
        rng.shuffle(chosen)
    elif kind < 0.6:
        chosen = rng.sample([fact for fact in facts if fact.relation == one.relation], 6)
    else:
        chosen = rng.sample(facts, 6)
    say: Callable[[random.Random, Fact], str] = china.statement if facts is china.FACTS else questions.statement
    return ("" if facts is china.FACTS else " ").join(say(rng, fact) for fact in chosen)


def nature_told(rng: random.Random) -> str:
    """Statements about materials and animals."""
    return " ".join(nature.statement(rng) for _ in range(6))


def framed(rng: random.Random) -> str:
    """A row as the tasks put theirs, without instruction, about what tests do not ask."""
    name = pick(rng, tuple(FRAMES))
    row = pick(rng, TRAINING[name](rng, int(rng.random() * 1_000_000)))
    return f"{FRAMES[name](row)}\nAnswer: {mark(row.answer)}"


def _choices(question: str, options: list[str]) -> str:
    return f"Question: {question}\nChoices: {lessons.lettered(options)}"


TRAINING = makers(tested=False)
FRAMES: dict[str, Callable[[Row], str]] = {
    "anli": lambda row: "Sentence 1: {}\nSentence 2: {}".format(*row.texts),
    "rte": lambda row: "Sentence 1: {}\nSentence 2: {}".format(*row.texts),
    "qqp": lambda row: "Text 1: {}\nText 2: {}".format(*row.texts),
    "winogrande": lambda row: "Sentence: '{sentence}'\nOption A: '{option1}'\nOption B: '{option2}'".format(
        **row.fields
    ),
    "arc": lambda row: _choices(row.texts[0], [choice["text"] for choice in row.fields["question"]["choices"]]),
    "mmlu": lambda row: _choices(row.texts[0], row.fields["options"]),
}


def _story(hops: int) -> Document:
    return lambda rng: lessons.judged(rng, hops)


# maker -> its share at first and later, and how many exercises of its kind make a document
KINDS: tuple[tuple[Document, float, float, int], ...] = (
    (facts_told, 0.10, 0.12, 1),
    (nature_told, 0.00, 0.04, 1),
    (school.asked, 0.00, 0.06, 4),
    (school.letters, 0.25, 0.08, 2),
    (school.sorting, 0.00, 0.08, 2),
    (school.quiz, 0.00, 0.09, 2),
    (school.sums, 0.00, 0.04, 4),
    (lessons.finding, 0.35, 0.10, 2),
    (lessons.comparing, 0.15, 0.06, 2),
    (_story(1), 0.10, 0.07, 1),
    (_story(2), 0.00, 0.07, 2),
    (_story(3), 0.00, 0.05, 1),
    (lessons.said_twice, 0.00, 0.05, 2),
    (lessons.asked_twice, 0.00, 0.04, 2),
    (lessons.reasons, 0.00, 0.08, 2),
    (lessons.opinion, 0.05, 0.07, 1),
    (lessons.shortened, 0.00, 0.05, 1),
    (framed, 0.00, 0.10, 1),
)


def document(rng: random.Random, done: float = 1.0) -> str:
    """Statements, or a few exercises of one kind, a line each.

    Looking things up comes first, and all else grows on it: until an eighth of the corpus is `done`, and then less and
    less of it until a quarter.
    """
    late = min(1.0, max(0.0, 8 * done - 1))
    shares = [early + (after - early) * late for _, early, after, _ in KINDS]
    maker, _, _, count = rng.choices(KINDS, shares)[0]
    return "\n".join(maker(rng) for _ in range(count))


def corpus(seed: int, documents: int) -> Iterator[str]:
    """Documents of about 20-90 words, from easy to all kinds: their order matters."""
    kept = Kept(Plan())
    rng = random.Random(f"{seed} corpus")
    for number in range(documents):
        while kept.found(text := document(rng, number / documents)):
            pass
        yield text
