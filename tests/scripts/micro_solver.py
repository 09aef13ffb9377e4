"""A solver of the micro-worlds that knows English sentences and nothing of the generators.

It reads premise and hypothesis, enumerates every world the premise allows, and says what that makes of the hypothesis.
"""

from __future__ import annotations

import re
from itertools import permutations, product

Fact = tuple[str, ...]

COUNT = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
SCALES = {
    word: (pair[0], word == pair[0])
    for pair in (
        ("taller", "shorter"), ("older", "younger"), ("stronger", "weaker"),
        ("faster", "slower"), ("richer", "poorer"), ("louder", "quieter"),
    )
    for word in pair
}  # fmt: skip
COMPARED = "|".join(SCALES)
READINGS: tuple[tuple[str, str], ...] = (
    (r"(\w+) is (?:" + COMPARED + r") than (\w+)", "more"),
    (r"(\w+) (?:has|owns) more (\w+) than (\w+)", "owns"),
    (r"(\w+) has fewer (\w+) than (\w+)", "fewer"),
    (r"(\w+) (?:has|owns) (\w+) (\w+)", "has"),
    (r"there are (\w+) (\w+) that belong to (\w+)", "belong"),
    (r"(\w+) does not (?:have|own) (\w+) (\w+)", "not has"),
    (r"the color of the (\w+) is (\w+)", "color"),
    (r"the color of the (\w+) is not (\w+)", "not color"),
    (r"the (\w+) was painted (\w+)", "color"),
    (r"(?:the )?(\w+) (?:is|stays|lies|went) (?:in|to|on) the (\w+)", "in"),
    (r"you can find (?:the )?(\w+) in the (\w+)", "in"),
    (r"(?:in|on) the (\w+) lies the (\w+)", "holds"),
    (r"the (\w+) holds the (\w+)", "holds"),
    (r"(?:the )?(\w+) (?:is not|does not lie) (?:in|on) the (\w+)", "not in"),
    (r"you can not find (?:the )?(\w+) in the (\w+)", "not in"),
    (r"the (\w+) is not (\w+)", "not color"),
    (r"the (\w+) is (\w+)", "color"),
)


def read(sentence: str) -> Fact:
    """``kind, …`` of a sentence."""
    text = sentence.lower()
    for pattern, kind in READINGS:
        if found := re.fullmatch(pattern, text):
            words = found.groups()
            if kind == "more":
                scale, upward = SCALES[re.findall(COMPARED, text)[0]]
                return ("more", scale, *(words if upward else words[::-1]))
            if kind in ("owns", "fewer"):
                one, goods, two = words
                return ("owns", goods, *((one, two) if kind == "owns" else (two, one)))
            if kind == "belong":
                return ("has", words[2], words[0], words[1])
            return ("in", words[1], words[0]) if kind == "holds" else (kind, *words)
    raise AssertionError(f"cannot read {sentence!r}")


def label(premise: str, hypothesis: str) -> str:
    """Entailment, contradiction or neutral."""
    facts = [read(sentence) for sentence in re.findall(r"[^.]+", premise.replace(". ", "."))]
    claim = read(hypothesis.rstrip("."))
    kind = claim[0].removeprefix("not ")
    worlds = {"more": _orders, "owns": _purses, "has": _purses, "color": _paints, "in": _nests}[kind](facts, claim)
    found = {_holds(claim, world) for world in worlds if all(_holds(fact, world) for fact in facts)}
    assert found, f"no world allows {premise!r}"
    return "neutral" if len(found) == 2 else "entailment" if found.pop() else "contradiction"


World = dict[Fact, object]


def _holds(fact: Fact, world: World) -> bool:
    """Whether a fact is true in a world; of facts that the world leaves out, yes."""
    if fact[0].startswith("not "):
        return not _holds((fact[0][4:], *fact[1:]), world)
    kind, *words = fact
    if kind == "more":
        scale, one, two = words
        order = world.get(("order", scale))
        return not isinstance(order, tuple) or order.index(one) < order.index(two)
    if kind == "owns":
        goods, one, two = words
        purses = world.get(("has", one, goods)), world.get(("has", two, goods))
        return not all(isinstance(purse, int) for purse in purses) or purses[0] > purses[1]  # type: ignore[operator]
    if kind == "has":
        return world.get(("has", words[0], words[2]), COUNT[words[1]]) == COUNT[words[1]]
    if kind == "color":
        return world.get(("color", words[0]), words[1]) == words[1]
    where = world.get(("in", words[0]))
    while isinstance(where, str) and where != words[1]:
        where = world.get(("in", where))
    return where == words[1] if ("in", words[0]) in world else True


def _orders(facts: list[Fact], claim: Fact) -> list[World]:
    scale = claim[1]
    people = sorted({name for fact in (*facts, claim) if fact[:2] == ("more", scale) for name in fact[2:]})
    return [{("order", scale): order} for order in permutations(people)]


def _purses(facts: list[Fact], claim: Fact) -> list[World]:
    goods = claim[1] if claim[0] == "owns" else claim[3]
    named = [fact for fact in (*facts, claim) if fact[0].endswith("has") and fact[3] == goods]
    people = sorted({fact[1] for fact in named} | (set(claim[2:]) if claim[0] == "owns" else set()))
    keys = [("has", person, goods) for person in people]
    return [dict(zip(keys, counts, strict=True)) for counts in product(range(11), repeat=len(keys))]


def _paints(facts: list[Fact], claim: Fact) -> list[World]:
    colors = {fact[2] for fact in (*facts, claim) if fact[0].endswith("color") and fact[1] == claim[1]}
    return [{("color", claim[1]): color} for color in (*sorted(colors), "another")]


def _nests(facts: list[Fact], claim: Fact) -> list[World]:
    """What is in (or on) what; a place or a piece of furniture is in nothing; nothing is in itself."""
    pairs = [fact[1:] for fact in (*facts, claim) if fact[0].endswith("in")]
    inner, outer = sorted({one for one, _ in pairs}), sorted({two for _, two in pairs})
    boxes = {"box", "bag", "basket", "drawer", "chest", "bucket"}
    # What is not a box in the claim lies in one thing; only boxes and what they hold matter to it.
    near = {claim[1], claim[2]}
    for _ in pairs:
        near |= {word for pair in pairs if set(pair) & near & (boxes | {claim[1]}) for word in pair}
    inner, outer = [one for one in inner if one in near], [one for one in outer if one in near]
    worlds: list[World] = []
    for choice in product((*outer, None), repeat=len(inner)):
        world: World = {("in", one): two for one, two in zip(inner, choice, strict=True)}
        if all(_grounded(one, world) for one in inner):
            worlds.append(world)
    return worlds


def _grounded(start: str, world: World) -> bool:
    seen, here = {start}, world.get(("in", start))
    while isinstance(here, str):
        if here in seen:
            return False
        seen.add(here)
        here = world.get(("in", here))
    return True
