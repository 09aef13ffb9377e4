"""ANLI: what a few facts say about another one. One fact (R1), two (R2) or three (R3) decide.

In: a random generator. Out: premise, hypothesis and label; other facts stand among those that decide.
"""

from __future__ import annotations

import random

from .micro import Told, changed, elsewhere, restated, simple, tell, unrelated, words_of
from .words import CONTAINERS, GOODS, NAMES, NUMBERS, PLACES, SCALES, THINGS, Row, other, pick, several, shuffled

LABELS = ("entailment", "neutral", "contradiction")
Case = tuple[list[Told], Told]


def claim(rng: random.Random, fact: Told, told: list[Told], label: str) -> Told:
    """What one fact of a story decides, or all of it leaves open."""
    if label == "neutral":
        return elsewhere(rng, fact, words_of(told))
    return restated(rng, fact) if label == "entailment" else changed(rng, fact)


def _one(rng: random.Random, label: str) -> Case:
    fact = simple(rng)
    return [fact], claim(rng, fact, [fact], label)


def _ladder(rng: random.Random, label: str, length: int) -> Case:
    """Who is above whom on a scale, through people between them; neutral: both above (or below) the same one."""
    people = several(rng, NAMES, length)
    scale = str(int(rng.random() * len(SCALES)))
    facts = [Told("more", one, two, scale) for one, two in zip(people, people[1:], strict=False)]
    top, bottom = people[0], people[-1]
    if label == "neutral":
        last = facts[-1]
        facts[-1] = Told("more", last.value, last.subject, scale)
        return facts, Told("more", *pick(rng, ((top, bottom), (bottom, top))), scale)
    return facts, Told("more", *((top, bottom) if label == "entailment" else (bottom, top)), scale)


def _nested(rng: random.Random, label: str, depth: int) -> Case:
    """A thing in a container (in another one) in a place."""
    thing, place = pick(rng, THINGS), pick(rng, PLACES)
    boxes = several(rng, CONTAINERS, depth)
    facts = [Told("in", inner, outer) for inner, outer in zip([thing, *boxes], boxes, strict=False)]
    facts.append(Told("at", boxes[-1], place))
    fact = Told("at", thing, place)
    if label == "neutral":
        return facts, Told("at", other(rng, THINGS, thing), place)
    return facts, restated(rng, fact) if label == "entailment" else changed(rng, fact)


def _counted(rng: random.Random, label: str) -> Case:
    """Who has more, from two numbers."""
    one, two = several(rng, NAMES, 2)
    goods = pick(rng, GOODS)
    few, many = sorted(several(rng, range(2, 10), 2))
    facts = [Told("has", one, NUMBERS[many], goods), Told("has", two, NUMBERS[few], goods)]
    if label == "neutral":
        return facts, Told("owns", *pick(rng, ((one, two), (two, one))), other(rng, GOODS, goods))
    return facts, Told("owns", *((one, two) if label == "entailment" else (two, one)), goods)


def case(rng: random.Random, hops: int, label: str) -> Case:
    """Facts that decide, and the fact that is in question; `hops` facts are needed."""
    if hops == 1:
        return _one(rng, label)
    family = rng.random()
    if family < 0.4:
        return _ladder(rng, label, hops + 1)
    if hops == 2 and family < 0.7:
        return _counted(rng, label)
    return _nested(rng, label, hops - 1)


def anli_row(rng: random.Random, number: int) -> Row:
    """Rounds and labels take turns."""
    hops, label = number % 3 + 1, LABELS[number // 3 % 3]
    facts, asked = case(rng, hops, label)
    besides = pick(rng, (0, 1) if hops == 3 else (1, 2))
    told = facts + [unrelated(rng, [*facts, asked]) for _ in range(besides)]
    context = " ".join(tell(rng, fact) for fact in shuffled(rng, told))
    hypothesis = tell(rng, asked)
    fields = {"context": context, "hypothesis": hypothesis, "label": label[0]}
    return Row("anli", (context, hypothesis), label, fields, f"{asked.kind}, {hops}", f"R{hops}")
