"""MMLU: six subjects of the invented world, under names of the real ones.

In: a random generator. Out: question and four options.
"""

from __future__ import annotations

import random

from .atlas import TOWN_FACTS, Fact
from .science import Asked, animal_part, animal_twice, material_twice, material_wanted
from .words import COLORS, DAYS, GOODS, MONTHS, NAMES, NUMBERS, PLACES, THINGS, Row, pick, several, shuffled


def mathematics(rng: random.Random) -> Asked:
    """Adding and taking away, in words."""
    a, b = 2 + int(rng.random() * 6), 1 + int(rng.random() * 5)
    words = {"p": pick(rng, NAMES), "g": pick(rng, GOODS)}
    adds = rng.random() < 0.5
    if not adds:
        a += b
    form = "{p} has {a} {g} and gets {b} more." if adds else "{p} has {a} {g} and gives {b} away."
    right = a + b if adds else a - b
    near = [n for n in (right - 2, right - 1, right + 1, right + 2, right + 3) if n >= 0]
    text = form.format(a=NUMBERS[a], b=NUMBERS[b], **words) + " How many are there now?"
    return Asked(text, NUMBERS[right], tuple(NUMBERS[n] for n in several(rng, near, 3)))


GEOGRAPHY = {
    "river": ("{p} goes fishing in {e}. In which river?", "{p} crosses the bridge of {e}. Over which river?"),
    "county": ("{p} moves to {e}. Which county is that?", "{p} sends a letter to {e}. To which county?"),
    "product": ("{p} brings home the best of {e}. What is it?", "{p} opens a shop in {e}. What is sold?"),
    "day": ("{p} sees the market of {e}. On which day?", "{p} sells {g} in the market of {e}. On which day?"),
    "flag": ("{p} paints the flag of {e}. What animal is on it?", "{p} carries the flag of {e}. What does it show?"),
}


def geography(rng: random.Random, facts: list[Fact]) -> Asked:
    """A fact of the atlas; the wrong options are other towns' values."""
    fact = pick(rng, facts)
    values = sorted({f.answers[0] for f in TOWN_FACTS if f.relation == fact.relation} - {fact.answers[0]})
    words = {"p": pick(rng, NAMES), "g": pick(rng, GOODS), "v": pick(rng, PLACES), "e": fact.entity}
    question = pick(rng, GEOGRAPHY[fact.relation]).format(**words)
    return Asked(question, fact.answers[0], tuple(several(rng, values, 3)))


def logic(rng: random.Random) -> Asked:
    """Two rules and a case of one of them; half of the wrong options stand in the question too."""
    things, options = several(rng, THINGS, 2), several(rng, COLORS, 4)
    rules = [f"Every {thing} is {color}." for thing, color in zip(things, options, strict=False)]
    number = int(rng.random() * 2)
    case = f"{pick(rng, NAMES)} has a {things[number]}."
    right = options.pop(number)
    return Asked(f"{' '.join(rules)} {case} What color is it?", right, tuple(options))


def miscellany(rng: random.Random) -> Asked:
    """Days and months that come after."""
    names = pick(rng, (DAYS, MONTHS))
    steps = 1 + int(rng.random() * 2)
    unit = ("day" if names is DAYS else "month") + ("" if steps == 1 else "s")
    start = int(rng.random() * len(names))
    when = f"{'on' if names is DAYS else 'in'} {names[start]}"
    right = names[(start + steps) % len(names)]
    text = f"{pick(rng, NAMES)} left the {pick(rng, PLACES)} {when} and came back {NUMBERS[steps]} {unit} later. When?"
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
