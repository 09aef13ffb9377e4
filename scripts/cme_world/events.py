"""RTE and QQP: who did what to whom, said actively, passively and from the other side.

In: a random generator. Out: premise and hypothesis (RTE), or two questions (QQP).
"""

from __future__ import annotations

import random

from .words import COLORS, GOODS, NAMES, PLACES, THINGS, Row, other, pick, several, shuffled

# {p} does something with {t} towards {q}; every form of a family says the same
GIVING = (
    ("{p} gave the {t} to {q}", "{q} got the {t} from {p}", "the {t} was given to {q} by {p}"),
    ("{p} sold the {t} to {q}", "{q} bought the {t} from {p}", "the {t} was sold to {q} by {p}"),
    ("{p} sent the {t} to {q}", "the {t} was sent to {q} by {p}", "{q} was sent the {t} by {p}"),
    ("{p} lent the {t} to {q}", "{q} borrowed the {t} from {p}", "the {t} was lent to {q} by {p}"),
    ("{p} showed the {t} to {q}", "{q} was shown the {t} by {p}", "the {t} was shown to {q} by {p}"),
)
MEETING = (
    ("{p} taught {q}", "{q} learned from {p}", "{q} was taught by {p}"),
    ("{p} followed {q}", "{q} walked before {p}", "{q} was followed by {p}"),
    ("{p} helped {q}", "{q} had the help of {p}", "{q} was helped by {p}"),
    ("{p} won against {q}", "{q} lost against {p}", "{q} was beaten by {p}"),
    ("{p} called {q}", "{q} had a call from {p}", "{q} was called by {p}"),
)
WHERE = ("in the {place}", "near the {place}", "behind the {place}")


def _roles(rng: random.Random) -> dict[str, str]:
    one, two = several(rng, NAMES, 2)
    return {"p": one, "q": two, "t": f"{pick(rng, COLORS)} {pick(rng, THINGS)}"}


def _event(rng: random.Random, entailed: bool) -> tuple[str, str]:
    family = pick(rng, GIVING + MEETING)
    roles = _roles(rng)
    one, two = several(rng, range(3), 2)
    place = pick(rng, WHERE).format(place=pick(rng, PLACES))
    premise = f"{family[one].format(**roles)} {place}."
    if not entailed:
        kind = rng.random()
        if kind < 0.6:
            roles["p"], roles["q"] = roles["q"], roles["p"]
        elif kind < 0.8 and family in GIVING:
            roles["t"] = f"{roles['t'].split()[0]} {other(rng, THINGS, roles['t'].split()[1])}"
        else:
            roles["p"] = other(rng, NAMES, roles["p"], roles["q"])
    return premise, f"{family[two].format(**roles)}."


def _amount(rng: random.Random, entailed: bool) -> tuple[str, str]:
    """All, some, none of the things of a place."""
    words = {"g": pick(rng, GOODS), "v": pick(rng, PLACES), "c": pick(rng, COLORS), "p": pick(rng, NAMES)}
    all_, some, none = (f"{how} the {{g}} in the {{v}} are {{c}}." for how in ("all", "some of", "none of"))
    one, two = pick(rng, ((all_, some), (all_, all_)) if entailed else ((some, all_), (none, some), (all_, none)))
    seen = pick(rng, ("{p} saw that ", "{p} knows that ", "it is true that ")).format(**words)
    return seen + one.format(**words), two.format(**words)


def _known(rng: random.Random, entailed: bool) -> tuple[str, str]:
    """What somebody knows is so; what somebody thinks or hopes need not be."""
    sure = ("{p} knows that {x}.", "{p} saw that {x}.", "{p} was glad that {x}.")
    unsure = ("{p} thinks that {x}.", "{p} hopes that {x}.", "{p} said that {x}.")
    one, two = several(rng, NAMES, 2)
    fact = f"{two} is in the {pick(rng, PLACES)}"
    return pick(rng, sure if entailed else unsure).format(p=one, x=fact), f"{fact}."


def _joined(rng: random.Random, entailed: bool) -> tuple[str, str]:
    """And, or."""
    one, two = several(rng, NAMES, 2)
    did = pick(rng, ("went to the", "slept in the", "worked in the", "waited in the")) + " " + pick(rng, PLACES)
    word = "and" if entailed else "or"
    return f"{one} {word} {two} {did}.", f"{pick(rng, (one, two))} {did}."


def rte_case(rng: random.Random, entailed: bool) -> tuple[str, str]:
    """Premise and hypothesis."""
    family = pick(rng, (_event, _event, _amount, _known, _joined))
    premise, hypothesis = family(rng, entailed)
    return premise[0].upper() + premise[1:], hypothesis[0].upper() + hypothesis[1:]


def rte_row(rng: random.Random, number: int) -> Row:
    """Labels take turns."""
    label = ("entailment", "not_entailment")[number % 2]
    premise, hypothesis = rte_case(rng, number % 2 == 0)
    if rng.random() < 0.4:
        side = _joined(rng, pick(rng, (True, False)))[0]
        while set(side.split()) & set(hypothesis.rstrip(".").split()) & set(NAMES):
            side = _joined(rng, pick(rng, (True, False)))[0]
        premise = " ".join(shuffled(rng, (premise, side)))
    return Row("rte", (premise, hypothesis), label, {"sentence1": premise, "sentence2": hypothesis, "label": label})


# QQP: all forms of a family ask the same
ASKED = (
    ("Who gave the {t} to {q}?", "From whom did {q} get the {t}?", "By whom was the {t} given to {q}?"),
    ("Who got the {t} from {p}?", "To whom did {p} give the {t}?", "Who was given the {t} by {p}?"),
    ("Who sold the {t} to {q}?", "From whom did {q} buy the {t}?", "By whom was the {t} sold to {q}?"),
    ("Who bought the {t} from {p}?", "To whom did {p} sell the {t}?", "Who was sold the {t} by {p}?"),
    ("How can {p} clean a {t}?", "What is the best way for {p} to clean a {t}?", "How does {p} get a {t} clean?"),
    ("How can {p} repair a {t}?", "What is the best way for {p} to repair a {t}?", "How does {p} get a {t} repaired?"),
    ("Where can {p} buy a {t}?", "Which shop sells a {t} to {p}?", "What is the best place for {p} to get a {t}?"),
    ("Where did {p} hide the {t}?", "In what place was the {t} hidden by {p}?", "Where is the {t} that {p} hid?"),
)


def qqp_case(rng: random.Random, same: bool) -> tuple[str, str]:
    """Two questions; what makes them differ is a thing, a person, or what is asked about these."""
    number = int(rng.random() * len(ASKED))
    words = {"p": pick(rng, NAMES), "t": pick(rng, THINGS)}
    words["q"] = words["p"]
    one, two = several(rng, range(3), 2)
    first = ASKED[number][one].format(**words)
    if not same:
        kind = rng.random()
        if kind < 0.4:
            words["t"] = other(rng, THINGS, words["t"])
        elif kind < 0.8:
            words["p"] = words["q"] = other(rng, NAMES, words["p"])
        else:
            number = other(rng, range(len(ASKED)), number)
    return first, ASKED[number][two].format(**words)


def qqp_row(rng: random.Random, number: int) -> Row:
    """Labels take turns."""
    same = number % 2 == 0
    one, two = qqp_case(rng, same)
    label = "duplicate" if same else "not duplicate"
    fields = {"question1": one, "question2": two, "is_duplicate": str(int(same))}
    return Row("qqp", (one, two), label, fields)
