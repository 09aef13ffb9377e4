"""WinoGrande: sentences whose blank one of two names fills; changing one word changes which.

In: a random generator. Out: pairs of twins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .words import COLORS, CONTAINERS, NAMES, THINGS, Row, pick, several


@dataclass(frozen=True)
class Schema:
    """A main clause about {x} and {y}, and endings after which the blank is {x}, or {y}."""

    clause: str
    of_x: tuple[str, ...]
    of_y: tuple[str, ...]
    people: bool = True


# The same endings after several clauses: neither the clause nor the ending alone says who is meant.
SCHEMAS = (
    Schema("the {x} does not fit in the {y}", ("is too large", "is too big"), ("is too small", "is too narrow"), False),
    Schema("the {y} can not hold the {x}", ("is too large", "is too big"), ("is too small", "is too narrow"), False),
    Schema("{x} could not lift {y}", ("was too weak", "was too small"), ("was too heavy", "was too large")),
    Schema("{x} carried {y}", ("was strong", "was kind"), ("was weak", "was hurt")),
    Schema("{x} won against {y}", ("was strong", "was fast"), ("was weak", "was slow")),
    Schema("{x} lost against {y}", ("was weak", "was slow"), ("was strong", "was fast")),
    Schema("{x} gave money to {y}", ("was rich", "was kind"), ("was poor", "asked for it")),
    Schema("{x} got money from {y}", ("was poor", "asked for it"), ("was rich", "was kind")),
    Schema("{x} fed {y}", ("had food", "was kind"), ("had no food", "was hungry")),
    Schema("{x} taught {y}", ("was the teacher", "knew much"), ("was the pupil", "knew little")),
    Schema("{x} learned from {y}", ("was the pupil", "knew little"), ("was the teacher", "knew much")),
)
LINKS = ("because", "since")


def filled(rng: random.Random, schema: Schema) -> tuple[str, str, str]:
    """The clause with two names (or things) in it, and these."""
    if schema.people:
        x, y = several(rng, NAMES, 2)
    else:
        x = f"{pick(rng, COLORS)} {pick(rng, THINGS)}"
        y = pick(rng, CONTAINERS)
    return schema.clause.format(x=x, y=y), x.split()[-1], y.split()[-1]


def twins(rng: random.Random, stem: int) -> tuple[Row, Row]:
    """Two rows that differ in the ending: the blank is one name, then the other."""
    schema = pick(rng, SCHEMAS)
    clause, x, y = filled(rng, schema)
    options = sorted((x, y), key=clause.index)  # as the sentence names them
    link = pick(rng, LINKS)
    rows = []
    for half, (ending, right) in enumerate(((pick(rng, schema.of_x), x), (pick(rng, schema.of_y), y)), start=1):
        name = "_" if schema.people else "the _"
        sentence = f"{clause} {link} {name} {ending}."
        sentence = sentence[0].upper() + sentence[1:]
        answer = str(options.index(right) + 1)
        fields = {
            "qID": f"W{stem:05d}-{half}",
            "sentence": sentence,
            "option1": options[0],
            "option2": options[1],
            "answer": answer,
        }
        rows.append(Row("winogrande", (sentence,), "AB"[int(answer) - 1], fields, schema.clause))
    return rows[0], rows[1]
