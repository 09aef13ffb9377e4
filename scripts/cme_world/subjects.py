"""MMLU: six subjects of the invented world, under names of the real ones.

In: a random generator. Out: question and four options.
"""

from __future__ import annotations

import random

from .atlas import TOWN_FACTS, Fact
from .science import Asked, animal_part, animal_twice, material_twice, material_wanted
from .words import DAYS, GOODS, MONTHS, NAMES, NUMBERS, PLACES, THINGS, Row, pick, several, shuffled


def mathematics(rng: random.Random) -> Asked:
    """Adding and taking away, in words."""
    one, two = several(rng, NAMES, 2)
    a, b = 2 + int(rng.random() * 8), 2 + int(rng.random() * 8)
    words = {"p": one, "q": two, "g": pick(rng, GOODS), "v": pick(rng, PLACES), "h": pick(rng, GOODS)}
    more = ("{p} has {a} {g} and gets {b} more from {q}.", "There are {a} {g} in the {v}. {p} brings {b} more.")
    less = ("{p} has {a} {g} and gives {b} of them to {q}.", "There are {a} {g} in the {v}. {p} takes {b} away.")
    end = {True: "How many {g} does {p} have now?", False: "How many {g} are in the {v} now?"}
    form, adds = int(rng.random() * 2), rng.random() < 0.5
    if not adds:
        a, b = max(a, b) + 1, min(a, b)
    text = f"{(more if adds else less)[form]} {end[form == 0]}"
    right = a + b if adds else a - b
    near = [n for n in (right - 2, right - 1, right + 1, right + 2, a, b) if 0 <= n <= 20 and n != right]
    wrong = tuple(NUMBERS[n] for n in several(rng, sorted(set(near)), 3))
    return Asked(text.format(a=NUMBERS[a], b=NUMBERS[b], **words), NUMBERS[right], wrong)


GEOGRAPHY = {
    "river": (
        "{p} goes fishing at {e}. On which river is {p}?",
        "{p} from {e} falls off the bridge. Into which river?",
    ),
    "county": (
        "{p} moves to {e}. In which county will {p} live?",
        "{p} writes a letter to {e}. Which county is it sent to?",
    ),
    "product": (
        "{p} brings home what {e} is famous for. What is it?",
        "{p} opens a shop for the best product of {e}. What is sold?",
    ),
    "day": (
        "{p} wants to see the market of {e}. On which day should {p} go?",
        "{p} sells {g} in the market of {e}. On which day is that?",
    ),
    "flag": (
        "{p} paints the flag of {e}. Which animal is on it?",
        "{p} carries the flag of {e} into the {v}. What animal is on it?",
    ),
}


def geography(rng: random.Random, facts: list[Fact]) -> Asked:
    """A fact of the atlas; the wrong options are other towns' values."""
    fact = pick(rng, facts)
    values = sorted({f.answers[0] for f in TOWN_FACTS if f.relation == fact.relation} - {fact.answers[0]})
    words = {"p": pick(rng, NAMES), "g": pick(rng, GOODS), "v": pick(rng, PLACES), "e": fact.entity}
    question = pick(rng, GEOGRAPHY[fact.relation]).format(**words)
    return Asked(question, fact.answers[0], tuple(several(rng, values, 3)))


def logic(rng: random.Random) -> Asked:
    """If ... then, forwards and backwards; denying the first part or affirming the second says nothing."""
    one, two = several(rng, NAMES, 2)
    here, there = several(rng, PLACES, 2)
    first = (f"{one} is in the {here}", f"{one} is not in the {here}")
    second = (f"{two} is in the {there}", f"{two} is not in the {there}")
    cases = ((first[0], second[0]), (second[1], first[1]), (first[1], "nothing"), (second[0], "nothing"))
    told, right = pick(rng, cases)
    options = (*first, *second, "nothing")
    wrong = tuple(several(rng, [o for o in options if o not in (told, right)], 3))
    told = told[0].upper() + told[1:]
    return Asked(f"If {first[0]}, then {second[0]}. {told}. What follows?", right, wrong)


def miscellany(rng: random.Random) -> Asked:
    """Days and months that come after, weeks in days."""
    kind = rng.random()
    steps = 1 + int(rng.random() * 3)
    words = {"p": pick(rng, NAMES), "v": pick(rng, PLACES), "t": pick(rng, THINGS), "n": NUMBERS[steps]}
    names = DAYS if kind < 0.5 else MONTHS
    unit = ("day" if names is DAYS else "month") + ("" if steps == 1 else "s")
    start = int(rng.random() * len(names))
    right = names[(start + steps) % len(names)]
    forms = (
        "{p} left the {v} {when} and came back {n} {unit} later. When was that?",
        "{p} ordered a {t} {when}. It came after {n} {unit}. When did it come?",
    )
    text = pick(rng, forms).format(when=f"{'on' if names is DAYS else 'in'} {names[start]}", unit=unit, **words)
    near = [names[(start + step) % len(names)] for step in (-1, 0, 1, 2, 3, 4)]
    return Asked(text, right, tuple(several(rng, [name for name in near if name != right], 3)))


MAKERS = {
    "elementary_mathematics": (mathematics,),
    "conceptual_physics": (material_wanted, material_twice),
    "formal_logic": (logic,),
    "high_school_biology": (animal_part, animal_twice),
    "miscellaneous": (miscellany,),
}
SUBJECTS = ("high_school_geography", *MAKERS)


def mmlu_row(rng: random.Random, facts: list[Fact], number: int) -> Row:
    """Subjects take turns."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    asked = geography(rng, facts) if subject == "high_school_geography" else pick(rng, MAKERS[subject])(rng)
    options = shuffled(rng, [asked.right, *asked.wrong])
    answer = "ABCD"[options.index(asked.right)]
    fields = {"question": asked.question, "options": options, "answer": answer}
    return Row("mmlu", (asked.question,), answer, fields, subject, subject)
