"""Micro-worlds: who is where, what is in what, who has how many, who is taller; told as sentences.

A fact is a few words; FORMS says it in English.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .words import COLORS, FURNITURE, GOODS, NAMES, NUMBERS, PLACES, SCALES, THINGS, other, pick, said, several


@dataclass(frozen=True)
class Told:
    """A fact of a micro-world: `kind` names the relation of subject and value.

    Kinds: ``at`` (person or container, place), ``in`` (thing, container), ``on`` (thing, piece of furniture),
    ``color`` (thing, colour), ``has`` (person, goods, number), ``more`` (person above another on the scale that `about`
    numbers).
    """

    kind: str
    subject: str
    value: str
    about: str = ""


FORMS = {
    # the last one of people only
    "at": ("{s} is in the {v}.", "{s} stays in the {v}.", "{s} went to the {v}."),
    "in": ("the {s} is in the {v}.", "the {s} lies in the {v}."),
    "on": ("the {s} is on the {v}.", "the {s} lies on the {v}."),
    "color": ("the {s} is {v}.", "the color of the {s} is {v}."),
    "has": ("{s} has {v} {about}.", "{s} owns {v} {about}."),
    "more": ("{s} is {more} than {v}.",),
}

# what a subject can have only one of
VALUES = {"at": PLACES, "on": FURNITURE, "color": COLORS, "has": NUMBERS[2:10]}


def tell(rng: random.Random, fact: Told) -> str:
    """The fact in a sentence."""
    more = SCALES[int(fact.about)][0] if fact.kind == "more" else ""
    lifeless = fact.kind == "at" and fact.subject not in NAMES
    subject = f"the {fact.subject}" if lifeless else fact.subject
    forms = FORMS[fact.kind][:2] if lifeless else FORMS[fact.kind]
    return said(rng, forms, s=subject, v=fact.value, about=fact.about, more=more)


def simple(rng: random.Random, kind: str = "") -> Told:
    """A fact that stands alone, of that kind or any."""
    kind = kind or pick(rng, ("at", "on", "color", "has", "more"))
    if kind == "at":
        return Told("at", pick(rng, NAMES), pick(rng, PLACES))
    if kind == "on":
        return Told("on", pick(rng, THINGS), pick(rng, FURNITURE))
    if kind == "color":
        return Told("color", pick(rng, THINGS), pick(rng, COLORS))
    if kind == "has":
        return Told("has", pick(rng, NAMES), pick(rng, NUMBERS[2:10]), pick(rng, GOODS))
    one, two = several(rng, NAMES, 2)
    return Told("more", one, two, str(int(rng.random() * len(SCALES))))


def changed(rng: random.Random, fact: Told) -> Told:
    """A fact that cannot be true beside this one."""
    if fact.kind == "more":
        return Told("more", fact.value, fact.subject, fact.about)
    return Told(fact.kind, fact.subject, other(rng, VALUES[fact.kind], fact.value), fact.about)


def elsewhere(rng: random.Random, fact: Told, taken: set[str]) -> Told:
    """A fact of the same kind that the others leave open: about somebody or something they do not name."""
    if fact.kind == "has" and rng.random() < 0.5:
        return Told("has", fact.subject, fact.value, other(rng, GOODS, fact.about))
    if fact.kind == "more" and rng.random() < 0.5:
        scales = [str(number) for number in range(len(SCALES))]
        return Told("more", fact.subject, fact.value, other(rng, scales, fact.about))
    pool = THINGS if fact.kind in ("on", "color") else NAMES
    subject = other(rng, pool, *taken, fact.subject, fact.value)
    return Told(fact.kind, subject, fact.value, fact.about)


def words_of(facts: list[Told]) -> set[str]:
    """Everything that the facts name."""
    return {word for fact in facts for word in (fact.subject, fact.value, fact.about) if word}


def unrelated(rng: random.Random, facts: list[Told], kind: str = "") -> Told:
    """A fact that names nothing the others name, of that kind or any."""
    while True:
        fact = simple(rng, kind)
        if not words_of([fact]) & words_of(facts):
            return fact
