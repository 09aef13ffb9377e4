"""The science of the small world: materials and what they do, animals and how they live."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .words import a, mark, pick, said

# what happens to it: a material either does all of a column or the opposite
MATERIALS = tuple("wood cork wax ice iron steel copper gold glass stone paper clay rubber butter".split())
PROPERTIES = {
    "floats": frozenset("wood cork wax ice butter".split()),
    "burns": frozenset("wood cork paper rubber".split()),
    "melts": frozenset("wax ice butter".split()),
    "conducts": frozenset("iron steel copper gold".split()),
    "magnetic": frozenset("iron steel".split()),
    "clear": frozenset("glass ice".split()),
    "soft": frozenset("wax butter clay rubber".split()),
}
# yes, no
PROPERTY_WORDS = {
    "floats": ("floats on water", "sinks in water"),
    "burns": ("burns in a fire", "never burns"),
    "melts": ("melts in the sun", "never melts"),
    "conducts": ("carries electricity", "carries no electricity"),
    "magnetic": ("sticks to a magnet", "sticks to no magnet"),
    "clear": ("lets light through", "lets no light through"),
    "soft": ("is soft", "is hard"),
}


@dataclass(frozen=True)
class Animal:
    """How an animal lives."""

    name: str
    cover: str
    food: str
    home: str


ANIMALS = tuple(
    Animal(*line.split())
    for line in (
        "hen feathers seeds farm", "duck feathers plants lake", "owl feathers mice forest", "gull feathers fish sea",
        "trout scales insects river", "shark scales fish sea", "snake scales mice desert",
        "lizard scales insects desert",
        "wolf fur meat forest", "rabbit fur grass field", "bat fur insects cave", "camel fur plants desert",
        "cow fur grass farm", "otter fur fish river", "beetle plates leaves field", "turtle plates plants sea",
        "crab plates plants river", "sparrow feathers seeds field", "deer fur leaves forest", "eel scales insects lake",
    )
)  # fmt: skip
PARTS = ("cover", "food", "home")
COVERS, FOODS, HOMES = (tuple(sorted({getattr(animal, part) for animal in ANIMALS})) for part in PARTS)
ANIMAL_FORMS = {
    "cover": ("{n_} has {v}.", "the body of {n_} is covered with {v}.", "every {n} is covered with {v}."),
    "food": ("{n_} eats {v}.", "the food of {n_} is {v}.", "every {n} likes to eat {v}."),
    "home": ("{n_} lives in the {v}.", "the home of {n_} is the {v}.", "you can meet {n_} in the {v}."),
}
MATERIAL_FORMS = ("{m} {x}.", "everybody knows that {m} {x}.", "a thing made of {m} {x}.")


def has(material: str, name: str) -> bool:
    """Whether the material has the property."""
    return material in PROPERTIES[name]


def effect(material: str, name: str) -> str:
    """What the material does, in words."""
    return PROPERTY_WORDS[name][0 if has(material, name) else 1]


def statement(rng: random.Random) -> str:
    """A fact of nature in a sentence, what can be foretold marked."""
    if rng.random() < 0.5:
        material = pick(rng, MATERIALS)
        return said(rng, MATERIAL_FORMS, m=material, x=mark(effect(material, pick(rng, tuple(PROPERTIES)))))
    animal, part = pick(rng, ANIMALS), pick(rng, tuple(ANIMAL_FORMS))
    return said(rng, ANIMAL_FORMS[part], n=animal.name, n_=a(animal.name), v=mark(getattr(animal, part)))
