"""ANLI: what a few facts say about another one. One fact (R1), two (R2) or three (R3) decide.

In: a random generator. Out: premise, hypothesis and label; another fact stands beside one that decides alone.
"""

from __future__ import annotations

import random

from .micro import Told, changed, elsewhere, simple, tell, unrelated, words_of
from .words import CONTAINERS, NAMES, PLACES, SCALES, THINGS, Row, other, pick, several, shuffled

LABELS = ("entailment", "neutral", "contradiction")
Case = tuple[list[Told], Told]


def claim(rng: random.Random, fact: Told, told: list[Told], label: str) -> Told:
    """What one fact of a story decides, or all of it leaves open."""
    if label == "neutral":
        return elsewhere(rng, fact, words_of(told))
    return fact if label == "entailment" else changed(rng, fact)


def _beside(rng: random.Random, label: str) -> Case:
    """Two facts of one kind; what contradicts one of them may say of it what the other says of another."""
    fact = simple(rng)
    told = [fact, unrelated(rng, [fact], fact.kind)]
    if label == "contradiction" and fact.kind in ("at", "on", "color") and rng.random() < 0.5:
        return told, Told(fact.kind, fact.subject, told[1].value)
    return told, claim(rng, fact, told, label)


def _ladder(rng: random.Random, label: str, length: int) -> Case:
    """Who is above whom on a scale, through people between them; neutral: on another scale, or somebody else."""
    people = several(rng, NAMES, length)
    scale = str(int(rng.random() * len(SCALES)))
    facts = [Told("more", one, two, scale) for one, two in zip(people, people[1:], strict=False)]
    return facts, claim(rng, Told("more", people[0], people[-1], scale), facts, label)


def _nested(rng: random.Random, label: str, depth: int) -> Case:
    """A thing in a container (in another one) in a place."""
    thing, place = pick(rng, THINGS), pick(rng, PLACES)
    boxes = several(rng, CONTAINERS, depth)
    facts = [Told("in", inner, outer) for inner, outer in zip([thing, *boxes], boxes, strict=False)]
    facts.append(Told("at", boxes[-1], place))
    if label == "neutral":
        return facts, Told("at", other(rng, THINGS, thing), place)
    fact = Told("at", thing, place)
    return facts, fact if label == "entailment" else changed(rng, fact)


def case(rng: random.Random, hops: int, label: str) -> Case:
    """Facts, and the fact that is in question; `hops` of them are needed."""
    if hops == 1:
        return _beside(rng, label)
    return _ladder(rng, label, hops + 1) if rng.random() < 0.5 else _nested(rng, label, hops - 1)


def anli_row(rng: random.Random, number: int) -> Row:
    """Rounds and labels take turns."""
    hops, label = number % 3 + 1, LABELS[number // 3 % 3]
    facts, asked = case(rng, hops, label)
    context = " ".join(tell(rng, fact) for fact in (shuffled(rng, facts) if hops == 1 else facts))
    hypothesis = tell(rng, asked)
    fields = {"context": context, "hypothesis": hypothesis, "label": label[0]}
    return Row("anli", (context, hypothesis), label, fields, f"{asked.kind}, {hops}", f"R{hops}")
