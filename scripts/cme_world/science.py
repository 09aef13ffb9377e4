"""ARC: questions about nature with three or four options; easy ones need one fact, challenging ones two.

In: a random generator. Out: question, options and the right one. Names and things around the question vary, the facts
are nature's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .nature import ANIMALS, COVERS, FOODS, HOMES, MATERIALS, PROPERTIES, PROPERTY_WORDS, Animal, has
from .words import NAMES, PLACES, THINGS, Row, a, pick, several, shuffled


@dataclass(frozen=True)
class Asked:
    """A question, its right answer and wrong ones."""

    question: str
    right: str
    wrong: tuple[str, ...]


MATERIAL = (
    "{p} needs a {t} that {x}. Which material is it?",
    "The {t} of {p} {x}. What is it made of?",
)


def _who(rng: random.Random) -> dict[str, str]:
    return {"p": pick(rng, NAMES), "t": pick(rng, THINGS), "v": pick(rng, PLACES)}


def material_wanted(rng: random.Random) -> Asked:
    """One property -> the material that has it."""
    name = pick(rng, tuple(PROPERTIES))
    right = [material for material in MATERIALS if has(material, name)]
    wrong = [material for material in MATERIALS if not has(material, name)]
    question = pick(rng, MATERIAL).format(x=PROPERTY_WORDS[name][0], **_who(rng))
    return Asked(question, pick(rng, right), tuple(several(rng, wrong, 3)))


def material_twice(rng: random.Random) -> Asked:
    """Two properties -> the material that has both; one of the others has one of them."""
    while True:
        one, two = several(rng, tuple(PROPERTIES), 2)
        count = {material: has(material, one) + has(material, two) for material in MATERIALS}
        fitting = [[material for material in MATERIALS if count[material] == number] for number in range(3)]
        if fitting[2] and fitting[1]:
            break
    both = " and ".join(PROPERTY_WORDS[name][0] for name in (one, two))
    question = pick(rng, MATERIAL).format(x=both, **_who(rng))
    wrong = (pick(rng, fitting[1]), *several(rng, fitting[0], 2))
    return Asked(question, pick(rng, fitting[2]), wrong)


def animal_part(rng: random.Random) -> Asked:
    """One fact of an animal."""
    part = pick(rng, ("cover", "food", "home"))
    animal = pick(rng, ANIMALS)
    forms = {
        "cover": ("{p} drew {a_n} in the {v}. What covers it?", "What covers the {n} that {p} saw?"),
        "food": ("{p} found {a_n} in the {v}. What does it eat?", "What does the {n} of {p} like to eat?"),
        "home": ("{p} drew {a_n} in the {v}. Where does it live?", "Where does the {n} live that {p} saw?"),
    }
    values = {"cover": COVERS, "food": FOODS, "home": HOMES}[part]
    question = pick(rng, forms[part]).format(n=animal.name, a_n=a(animal.name), **_who(rng))
    right = getattr(animal, part)
    return Asked(question, right, tuple(several(rng, [v for v in values if v != right], 3)))


def animal_twice(rng: random.Random) -> Asked:
    """Two facts -> the animal; one of the others shares one of them."""
    while True:
        animal = pick(rng, ANIMALS)
        one, two = several(rng, ("cover", "food", "home"), 2)
        shared = {beast.name: _same(beast, animal, one) + _same(beast, animal, two) for beast in ANIMALS}
        half, none = ([name for name, count in shared.items() if count == number] for number in (1, 0))
        if half:
            break
    words = {"cover": "has {}", "food": "eats {}", "home": "lives in the {}"}
    first, second = (words[part].format(getattr(animal, part)) for part in (one, two))
    forms = (
        "{p} saw an animal in the {v}. It {x} and {y}. What was it?",
        "Which animal did {p} paint on the {t}, if it {x} and {y}?",
    )
    wrong = (pick(rng, half), *several(rng, none, 2))
    return Asked(pick(rng, forms).format(x=first, y=second, **_who(rng)), animal.name, wrong)


def _same(one: Animal, two: Animal, part: str) -> bool:
    return getattr(one, part) == getattr(two, part)


EASY = (material_wanted, animal_part)
CHALLENGE = (material_twice, animal_twice)


def arc_row(rng: random.Random, number: int) -> Row:
    """Easy and challenging ones take turns; one in eight has three options, one in eight is labelled by numbers."""
    part = ("Easy", "Challenge")[number % 2]
    asked = pick(rng, EASY if part == "Easy" else CHALLENGE)(rng)
    wrong = asked.wrong[:2] if number % 8 == 3 else asked.wrong
    options = shuffled(rng, [asked.right, *wrong])
    labels = "1234" if number % 8 == 6 else "ABCD"
    choices = [{"text": text, "label": label} for text, label in zip(options, labels, strict=False)]
    answer = options.index(asked.right)
    stem = {"stem": asked.question, "choices": choices}
    fields = {"id": f"World_{part}_{number:05d}", "question": stem, "answerKey": labels[answer]}
    return Row("arc", (asked.question,), "ABCD"[answer], fields, part, part)
