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

from . import china, drills, lessons, nature, questions, school
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


# between a question and its answer: in half of the cases the sign of an end, as where the tasks' records have it
TAILS = ("</s>", "</s>", "</s>", "\nAnswer: ", "\nSo: ", " It is ")


def framed(name: str) -> Document:
    """A row as its task puts it, without instruction, about what tests do not ask."""

    def made(rng: random.Random) -> str:
        row = pick(rng, TRAINING[name](rng, int(rng.random() * 1_000_000)))
        return f"{FRAMES[name](row)}{pick(rng, TAILS)}{mark(row.answer)}"

    return made


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
    "nq": lambda row: row.texts[0],
    "triviaqa": lambda row: row.texts[0],
    "webqa": lambda row: row.texts[0],
}


def _story(hops: int) -> Document:
    return lambda rng: lessons.judged(rng, hops)


# what all else grows on, and grows fast where nothing else is learned beside it
DRILLS: tuple[Document, ...] = (drills.paired, drills.checked, drills.compared, drills.chosen)
# maker -> its share at first and later, and how many exercises of its kind make a document
KINDS: tuple[tuple[Document, float, float, int], ...] = (
    *((drill, 0.08, 0.02, 1) for drill in DRILLS),
    (facts_told, 0.06, 0.12, 1),
    (nature_told, 0.06, 0.03, 1),
    (school.asked, 0.00, 0.05, 4),
    (school.letters, 0.12, 0.03, 1),
    (school.sorting, 0.08, 0.04, 1),
    (school.quiz, 0.06, 0.05, 1),
    (school.sums, 0.03, 0.03, 4),
    (lessons.finding, 0.12, 0.03, 1),
    (lessons.comparing, 0.00, 0.01, 1),
    (_story(1), 0.06, 0.02, 1),
    (_story(2), 0.00, 0.02, 1),
    (_story(3), 0.00, 0.01, 1),
    (lessons.said_twice, 0.00, 0.04, 1),
    (lessons.asked_twice, 0.04, 0.02, 1),
    (lessons.reasons, 0.02, 0.02, 1),
    (lessons.opinion, 0.02, 0.05, 1),
    (lessons.shortened, 0.00, 0.04, 1),
    (framed("anli"), 0.10, 0.12, 1),
    (framed("qqp"), 0.08, 0.07, 1),
    (framed("rte"), 0.00, 0.03, 1),
    (framed("winogrande"), 0.05, 0.05, 1),
    (framed("arc"), 0.10, 0.09, 1),
    (framed("mmlu"), 0.05, 0.08, 1),
    (framed("nq"), 0.00, 0.02, 1),
    (framed("triviaqa"), 0.00, 0.02, 1),
    (framed("webqa"), 0.00, 0.02, 1),
)


def document(rng: random.Random, done: float = 1.0) -> str:
    """Statements, or a few exercises of one kind, a line each.

    Until an eighth of the corpus is `done` there are drills alone; then looking things up in sentences comes before all
    else, and less and less so until three eighths.
    """
    if done < 1 / 8:
        return pick(rng, DRILLS)(rng)
    late = min(1.0, 4 * done - 0.5)
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
