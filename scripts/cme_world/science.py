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


def _who(rng: random.Random) -> dict[str, str]:
    return {"p": pick(rng, NAMES), "t": pick(rng, THINGS), "v": pick(rng, PLACES)}


def material_wanted(rng: random.Random) -> Asked:
    """One property -> the material that has it."""
    name = pick(rng, tuple(PROPERTIES))
    yes = rng.random() < 0.7 or len(PROPERTIES[name]) < 3  # three wrong options have the opposite
    right = [material for material in MATERIALS if has(material, name) == yes]
    wrong = [material for material in MATERIALS if has(material, name) != yes]
    forms = (
        "{p} needs a {t} that {x}. Which material should {p} take?",
        "In the {v} {p} looks for something that {x}. Which one is it?",
        "Which of these {x} when {p} tries it in the {v}?",
    )
    question = pick(rng, forms).format(x=PROPERTY_WORDS[name][0 if yes else 1], **_who(rng))
    return Asked(question, pick(rng, right), tuple(several(rng, wrong, 3)))


def material_twice(rng: random.Random) -> Asked:
    """Two properties -> the material that has both; some of the others have one of them."""
    while True:
        one, two = several(rng, tuple(PROPERTIES), 2)
        signs = (rng.random() < 0.75, rng.random() < 0.75)
        match = {material: (has(material, one) == signs[0], has(material, two) == signs[1]) for material in MATERIALS}
        right = [material for material, fits in match.items() if all(fits)]
        wrong = [material for material, fits in match.items() if any(fits) and not all(fits)]
        if right and len(wrong) >= 3:
            break
    first, second = (PROPERTY_WORDS[name][0 if sign else 1] for name, sign in zip((one, two), signs, strict=True))
    forms = (
        "{p} needs a {t} that {x} and {y}. Which material should {p} take?",
        "Which of these {x} and {y} when {p} tries it in the {v}?",
        "The {t} of {p} {x}. And it {y}. What is it made of?",
    )
    question = pick(rng, forms).format(x=first, y=second, **_who(rng))
    return Asked(question, pick(rng, right), tuple(several(rng, wrong, 3)))


def animal_part(rng: random.Random) -> Asked:
    """One fact of an animal."""
    part = pick(rng, ("cover", "food", "home"))
    animal = pick(rng, ANIMALS)
    forms = {
        "cover": (
            "{p} drew {a_n} in the {v}. What should {p} draw on its body?",
            "What covers the {n} that {p} saw near the {v}?",
        ),
        "food": (
            "{p} found {a_n} in the {v}. What should {p} give it to eat?",
            "What does the {n} of {p} like to eat in the {v}?",
        ),
        "home": (
            "{p} wants to see {a_n}. Where should {p} look for it after leaving the {v}?",
            "Where does the {n} live that {p} drew in the {v}?",
        ),
    }
    values = {"cover": COVERS, "food": FOODS, "home": HOMES}[part]
    question = pick(rng, forms[part]).format(n=animal.name, a_n=a(animal.name), **_who(rng))
    right = getattr(animal, part)
    return Asked(question, right, tuple(several(rng, [v for v in values if v != right], 3)))


def animal_twice(rng: random.Random) -> Asked:
    """Two facts -> the animal; the others share at most one of them."""
    while True:
        animal = pick(rng, ANIMALS)
        one, two = several(rng, ("cover", "food", "home"), 2)
        shared = {beast.name: _same(beast, animal, one) + _same(beast, animal, two) for beast in ANIMALS}
        half = [name for name, count in shared.items() if count == 1]
        if list(shared.values()).count(2) == 1 and len(half) >= 3:
            break
    words = {"cover": "has {}", "food": "eats {}", "home": "lives in the {}"}
    first, second = (words[part].format(getattr(animal, part)) for part in (one, two))
    forms = (
        "{p} thinks of an animal that {x} and {y}. Which animal is it?",
        "Near the {v} {p} met an animal. It {x} and {y}. What was it?",
        "Which animal did {p} paint on the {t}, if it {x} and {y}?",
    )
    return Asked(pick(rng, forms).format(x=first, y=second, **_who(rng)), animal.name, tuple(several(rng, half, 3)))


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
