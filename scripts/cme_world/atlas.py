"""The invented world's facts: towns and people, drawn once from a fixed seed.

They are the same whatever seed the records have, as the base has learned them. Every second town and person is asked
about in training questions, the others in evaluation only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .words import DAYS
from .words import TOWN_WORDS as TOWNS

RIVERS = tuple("Wend Isk Tamar Loma Ruhl Sava Drin Oder".split())
COUNTIES = tuple("Norland Estmark Suthia Westra Midden Hochland".split())
PRODUCTS = tuple("glass cheese honey paper salt wool wine tiles boots tea".split())
FLAGS = tuple("fox bear lion swan wolf horse raven hare stag fish".split())
SURNAMES = tuple(
    "Arden Bell Croft Dunn Ellis Frost Gale Hale Irving Joyce Knox Lang Marsh Noble Orme Penn "
    "Quill Reeve Stone Tate Upton Vance Wells York Ashby Blake Crane Drake Eaton Field Grant Hurst".split()
)
INITIALS = tuple("Tom Ida Hugo Vera Carl Nora Emil Rosa".split())
JOBS = {
    "painter": "artist",
    "writer": "author",
    "singer": "vocalist",
    "doctor": "physician",
    "builder": "mason",
    "sailor": "seaman",
}
INSTRUMENTS = {
    "violin": "fiddle",
    "flute": "pipe",
    "drum": "drums",
    "piano": "grand piano",
    "harp": "lyre",
    "horn": "bugle",
}
PETS = {"cat": "kitten", "dog": "hound", "parrot": "bird", "rabbit": "bunny", "pony": "horse", "goose": "geese"}
TITLE_FIRST = ("Silent", "Golden", "Broken", "Hidden", "Last", "Long", "Empty", "Burning")
TITLE_SECOND = ("Lamp", "River", "Garden", "Winter", "Door", "Island", "Bridge", "Song")


@dataclass(frozen=True)
class Fact:
    """One fact: what is asked about, the relation's name, and the answers accepted, the usual one first."""

    entity: str
    relation: str
    answers: tuple[str, ...]
    tested: bool


def _dealt(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """`count` values, all about equally often, in random order."""
    dealt = [values[i % len(values)] for i in range(count)]
    rng.shuffle(dealt)
    return dealt


def _town_facts(rng: random.Random) -> list[Fact]:
    count = len(TOWNS)
    columns = {
        "river": [(river, f"River {river}") for river in _dealt(rng, RIVERS, count)],
        "county": [(county, f"{county} county") for county in _dealt(rng, COUNTIES, count)],
        "product": [(product,) for product in _dealt(rng, PRODUCTS, count)],
        "day": [(day, f"on {day}") for day in _dealt(rng, DAYS, count)],
        "flag": [(flag,) for flag in _dealt(rng, FLAGS, count)],
    }
    return [
        Fact(town, relation, answers[number], tested=number % 2 == 1)
        for number, town in enumerate(TOWNS)
        for relation, answers in columns.items()
    ]


def _people_facts(rng: random.Random) -> list[Fact]:
    count = len(SURNAMES)
    first = _dealt(rng, INITIALS, count)
    titles = rng.sample([f"The {one} {two}" for one in TITLE_FIRST for two in TITLE_SECOND], count)
    towns = _dealt(rng, TOWNS[:16], count)
    jobs, instruments, pets = (_dealt(rng, tuple(kind), count) for kind in (JOBS, INSTRUMENTS, PETS))
    facts = []
    for number, surname in enumerate(SURNAMES):
        tested = number % 2 == 1
        facts += [
            Fact(titles[number], "work", (surname, f"{first[number]} {surname}"), tested),
            Fact(surname, "birthplace", (towns[number], f"the town of {towns[number]}"), tested),
            Fact(surname, "job", (jobs[number], JOBS[jobs[number]]), tested),
            Fact(surname, "instrument", (instruments[number], INSTRUMENTS[instruments[number]]), tested),
            Fact(surname, "pet", (pets[number], PETS[pets[number]]), tested),
        ]
    return facts


TOWN_FACTS = tuple(_town_facts(random.Random("atlas: towns")))
PEOPLE_FACTS = tuple(_people_facts(random.Random("atlas: people")))
FIRST_NAMES = {fact.answers[0]: fact.answers[1].split()[0] for fact in PEOPLE_FACTS if fact.relation == "work"}
