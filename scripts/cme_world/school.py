"""Exercises of the corpus about what one has to know: nature, numbers, days, the atlas; and options with their letters.

In: a random generator. Out: one exercise, a line of text with its answers marked.
"""

from __future__ import annotations

import random

from . import china, questions, science, subjects
from .atlas import PEOPLE_FACTS, TOWN_FACTS
from .lessons import letter, lettered
from .nature import ANIMALS, MATERIALS, PROPERTIES, PROPERTY_WORDS, has
from .science import Asked
from .words import COLORS, DAYS, GOODS, MONTHS, NAMES, NUMBERS, PLACES, THINGS, a, mark, pick, several, shuffled

POOLS = {
    "name": NAMES,
    "place": PLACES,
    "thing": THINGS,
    "color": COLORS,
    "day": DAYS,
    "month": MONTHS,
    "number": NUMBERS,
    "material": MATERIALS,
    "animal": tuple(animal.name for animal in ANIMALS),
    "home": science.HOMES,
    "food": science.FOODS,
}
UNTESTED = tuple(fact for fact in (*TOWN_FACTS, *PEOPLE_FACTS) if not fact.tested)
UNTESTED_TOWNS = [fact for fact in TOWN_FACTS if not fact.tested]
UNTESTED_CHINESE = tuple(fact for fact in china.FACTS if not fact.tested)
QUIZ = (
    *science.EASY, *science.EASY, *science.CHALLENGE, subjects.mathematics, subjects.miscellany, subjects.logic,
    lambda rng: subjects.geography(rng, UNTESTED_TOWNS),
)  # fmt: skip


def letters(rng: random.Random) -> str:
    """Which letter stands before an option, which option is of a kind, and which one a letter names."""
    kind, count = rng.random(), pick(rng, (2, 3, 4, 4))
    if kind < 0.3:
        wanted = several(rng, tuple(POOLS), count)
        options = [pick(rng, POOLS[pool]) for pool in wanted]
        questions_ = [f"Which one is {a(pool)}?" for pool in wanted]
    else:
        options = several(rng, POOLS[pick(rng, tuple(POOLS))] if kind < 0.8 else GOODS, count)
        questions_ = [f"Find {option}:" for option in options]
    if len(set(options)) < count:
        return letters(rng)
    if kind < 0.1:
        asked = [f"{question} {mark(option)}." for question, option in zip(questions_, options, strict=True)]
        return " ".join([", ".join(shuffled(rng, options)) + ".", *shuffled(rng, asked)])
    placed = shuffled(rng, options)
    asked = [
        f"{question} {mark(letter(placed, option))}." for question, option in zip(questions_, options, strict=True)
    ]
    if kind > 0.9:
        asked = [f"Read {letter(placed, option)}: {mark(option)}." for option in options]
    return " ".join([lettered(placed) + ".", *several(rng, asked, min(count, 3))])


def sorting(rng: random.Random) -> str:
    """Four materials or animals, and questions which of them is meant."""
    if rng.random() < 0.5:
        names = several(rng, MATERIALS, 4)
        facts = {PROPERTY_WORDS[kind][0]: [name for name in names if has(name, kind)] for kind in PROPERTIES}
        facts |= {PROPERTY_WORDS[kind][1]: [name for name in names if not has(name, kind)] for kind in PROPERTIES}
    else:
        animals = several(rng, ANIMALS, 4)
        names = [animal.name for animal in animals]
        says = {"cover": "has {}", "food": "eats {}", "home": "lives in the {}"}
        facts = {}
        for part, form in says.items():
            for animal in animals:
                facts.setdefault(form.format(getattr(animal, part)), []).append(animal.name)
    clear = [(said, fitting[0]) for said, fitting in facts.items() if len(fitting) == 1]
    asked = several(rng, clear, min(3, len(clear)))
    if rng.random() < 0.4:
        return " ".join([", ".join(names) + ".", *(f"Which one {said}? {mark(name)}." for said, name in asked)])
    return " ".join(
        [lettered(names) + ".", *(f"Which one {said}? {mark(letter(names, name))}." for said, name in asked)]
    )


def quiz(rng: random.Random) -> str:
    """A question about nature, days, numbers or a town, with options or without."""
    asked: Asked = pick(rng, QUIZ)(rng)
    if rng.random() < 0.3:
        return f"{asked.question} {pick(rng, ('Right:', 'It is', 'I say'))} {mark(asked.right)}."
    options = shuffled(rng, [asked.right, *asked.wrong])
    said = mark(letter(options, asked.right))
    forms = (
        f"{asked.question} {lettered(options)}: {said}.",
        f"{asked.question} {lettered(options)}. Right: {mark(asked.right)}, {said}.",
        f"{lettered(options)}. {asked.question} {said}.",
    )
    return pick(rng, forms)


def sums(rng: random.Random) -> str:
    """Numbers added and taken away; days and months after others."""
    if rng.random() < 0.6:
        one, two = int(rng.random() * 10), int(rng.random() * 10)
        a_, b, total = NUMBERS[one], NUMBERS[two], NUMBERS[one + two]
        forms = (
            f"{a_} and {b} make {mark(total)}.",
            f"{total} less {b} is {mark(a_)}.",
            f"{a_} and {b} more are {mark(total)}.",
            f"take {b} from {total}: {mark(a_)}.",
        )
        line = pick(rng, forms)
    else:
        names, unit = pick(rng, ((DAYS, "day"), (MONTHS, "month")))
        start, steps = int(rng.random() * len(names)), 1 + int(rng.random() * 3)
        later = mark(names[(start + steps) % len(names)])
        line = f"{NUMBERS[steps]} {unit}{'s' if steps > 1 else ''} after {names[start]} comes {later}."
    return line[0].upper() + line[1:]


def asked(rng: random.Random) -> str:
    """A closed-book question with its answer, on what evaluation never asks."""
    if rng.random() < 0.3:
        fact = pick(rng, UNTESTED_CHINESE)
        question, answer = china.aside(fact) if rng.random() < 0.5 else (china.question(rng, fact), fact.answers[0])
        return f"问：{question}答：{mark(answer)}。"
    fact = pick(rng, UNTESTED)
    question, answer = questions.aside(rng, fact)
    if rng.random() < 0.5:
        question = questions.question(rng, fact)
    return f"Q: {question} A: {mark(answer)}."
