"""WinoGrande: sentences whose blank one of two names fills; changing one word changes which.

In: a random generator. Out: pairs of twins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .words import COLORS, CONTAINERS, NAMES, PLACES, THINGS, Row, pick, several


@dataclass(frozen=True)
class Schema:
    """A main clause about {x} and {y}, and endings after which the blank is {x}, or {y}."""

    clause: str
    of_x: tuple[str, ...]
    of_y: tuple[str, ...]
    people: bool = True


SCHEMAS = (
    Schema("the {x} does not fit in the {y}", ("is too large", "is too big"), ("is too small", "is too narrow"), False),
    Schema(
        "the {x} broke the {y} when it fell", ("is heavy", "is made of iron"), ("is thin", "is made of glass"), False
    ),
    Schema("{x} could not lift {y}", ("is too weak", "is not strong"), ("is too heavy", "is so big"), True),
    Schema("{x} gave {y} the {t}", ("had two of them", "did not need it"), ("had none", "asked for it")),
    Schema(
        "{x} thanked {y} for the {t}", ("had received it", "was so happy with it"), ("had given it", "had paid for it")
    ),
    Schema("{x} asked {y} the way to the {v}", ("was lost", "was new there"), ("lived there", "knew the way")),
    Schema("{x} ran past {y} near the {v}", ("was fast", "was in a hurry"), ("was slow", "had stopped")),
    Schema("{x} paid {y} for the {t}", ("had bought it", "wanted it"), ("had sold it", "had made it")),
    Schema("{x} taught {y} in the {v}", ("knew much", "was the teacher"), ("knew little", "was the pupil")),
    Schema("{x} fed {y} in the {v}", ("was kind", "had food"), ("was hungry", "had no food")),
    Schema("{x} could not hear {y} in the {v}", ("had bad ears", "was asleep"), ("spoke softly", "was too quiet")),
    Schema("{x} carried {y} to the {v}", ("was strong", "had strong arms"), ("was hurt", "could not walk")),
    Schema(
        "{x} borrowed the {t} from {y}", ("had lost the old one", "needed one"), ("had a good one", "did not use it")
    ),
)
LINKS = ("because", "since", "as")
OPENINGS = ("", "", "on Monday ", "last week ", "in the end ", "yesterday ")


def filled(rng: random.Random, schema: Schema) -> tuple[str, str, str]:
    """The clause with two names (or things) in it, and these."""
    if schema.people:
        x, y = several(rng, NAMES, 2)
    else:
        x = f"{pick(rng, COLORS)} {pick(rng, THINGS)}"
        y = pick(rng, CONTAINERS)
    clause = schema.clause.format(x=x, y=y, t=f"{pick(rng, COLORS)} {pick(rng, THINGS)}", v=pick(rng, PLACES))
    opening = pick(rng, OPENINGS)
    return opening + clause, x.split()[-1], y.split()[-1]


def twins(rng: random.Random, stem: int) -> tuple[Row, Row]:
    """Two rows that differ in the ending: the blank is one name, then the other."""
    schema = pick(rng, SCHEMAS)
    clause, x, y = filled(rng, schema)
    options = [x, y] if rng.random() < 0.5 else [y, x]
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
