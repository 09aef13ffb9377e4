"""Exercises of the corpus about what they tell themselves: what follows, who is meant, which letter, what it comes to.

In: a random generator. Out: one exercise, a line of text with its answers marked. None is laid out as the tasks'
prompts are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from . import events, inference, micro, opinions, posts, schemas
from .micro import Told, tell
from .words import COLORS, CONTAINERS, FURNITURE, NAMES, PLACES, SCALES, THINGS, T, mark, pick, several, shuffled

# everyday words first, then those of the trade
VERDICTS = {
    "entailment": ("yes", "entailment"),
    "contradiction": ("no", "contradiction"),
    "neutral": ("maybe", "neutral"),
}
# before a claim, and whether its verdict is said in everyday words
CLAIMS = (("Is it so? ", True), ("So: ", True), ("Claim: ", True), ("And ", False))
FOLLOWS = (("Does it follow? ", True), ("Then ", True), ("Follows: ", True), ("Hence ", False))
SAME = (("Or: ", True), ("Two: ", True), ("Rather ", True), ("And ", False))
Frame = tuple[str, bool]


def _twins(rng: random.Random) -> tuple[random.Random, random.Random]:
    """Two generators that draw the same: what they make differs only where something else decides."""
    seed = rng.random()
    return random.Random(seed), random.Random(seed)


def _some(rng: random.Random, claims: Sequence[T]) -> list[T]:
    """One or more of them: of all together, the last would follow from the others."""
    return several(rng, claims, 1 + int(rng.random() * len(claims)))


def _ruled(rng: random.Random, frames: Sequence[Frame], claims: Sequence[tuple[str, tuple[str, str]]]) -> str:
    """Claims, each with its verdict behind it."""
    frame, everyday = pick(rng, frames)
    return " ".join(
        f"{frame}{claim} {mark(plain)}." if everyday else f"{frame}{claim} That is {mark(formal)}."
        for claim, (plain, formal) in shuffled(rng, claims)
    )


ASKED = {
    "at": (NAMES, PLACES, "Where is {}?"),
    "color": (THINGS, COLORS, "What color is the {}?"),
    "in": (THINGS, CONTAINERS, "What holds the {}?"),
    "on": (THINGS, FURNITURE, "Where does the {} lie?"),
}


def finding(rng: random.Random) -> str:
    """Who is where, what is what: questions each of which one of the sentences answers."""
    kind = pick(rng, tuple(ASKED))
    subjects, values, question = ASKED[kind]
    count = pick(rng, (2, 3, 3))
    facts = [Told(kind, *pair) for pair in zip(several(rng, subjects, count), several(rng, values, count), strict=True)]
    story = " ".join(tell(rng, fact) for fact in facts)
    answers = listed = shuffled(rng, [fact.value for fact in facts])
    if rng.random() < 0.35:
        story, answers = f"{story} {lettered(listed)}.", "ABC"
    asked = shuffled(rng, facts)
    told = dict(zip(listed, answers, strict=False))
    return " ".join([story, *(f"{question.format(fact.subject)} {mark(told[fact.value])}." for fact in asked)])


def judged(rng: random.Random, hops: int) -> str:
    """A story, and claims about it that it proves, denies or leaves open."""
    claims: list[tuple[str, tuple[str, str]]] = []
    if hops == 1:
        facts: list[Told] = []
        for _ in range(pick(rng, (2, 3))):
            facts.append(micro.unrelated(rng, facts))
        for fact in facts:
            label = pick(rng, inference.LABELS)
            claims.append((tell(rng, inference.claim(rng, fact, facts, label)), VERDICTS[label]))
    else:
        seed = rng.random()
        cases = {label: inference.case(random.Random(seed), hops, label) for label in shuffled(rng, inference.LABELS)}
        facts = next(iter(cases.values()))[0]
        claims = [(tell(rng, claim), VERDICTS[label]) for label, (same, claim) in cases.items() if same == facts]
        facts = [
            *facts,
            *(micro.unrelated(rng, [*facts, *(c for _, c in cases.values())]) for _ in range(pick(rng, (0, 0, 1)))),
        ]
    story = " ".join(tell(rng, fact) for fact in shuffled(rng, facts))
    return f"{story} {_ruled(rng, CLAIMS, claims if hops == 1 else _some(rng, claims))}"


def comparing(rng: random.Random) -> str:
    """Two or three people on a scale, seen from both ends."""
    people = several(rng, NAMES, pick(rng, (2, 3)))
    more, less = pick(rng, SCALES)
    told = [
        pick(rng, (f"{one} is {more} than {two}.", f"{two} is {less} than {one}."))
        for one, two in zip(people, people[1:], strict=False)
    ]
    one, two = several(rng, [people[0], people[-1]], 2)
    top, bottom = people[0], people[-1]
    ends = (
        f"Who is {more}, {one} or {two}? {mark(top)}.",
        f"Who is {less}, {one} or {two}? {mark(bottom)}.",
        f"Is {one} {more} than {two}? {mark('yes' if one == top else 'no')}.",
        f"Is {one} {less} than {two}? {mark('no' if one == top else 'yes')}.",
    )
    return " ".join([*shuffled(rng, told), *several(rng, ends, 3)])


def said_twice(rng: random.Random) -> str:
    """A sentence, and whether others follow from it."""
    cases = [events.rte_case(twin, follows) for twin, follows in zip(_twins(rng), (True, False), strict=True)]
    verdicts = (("yes", "entailment"), ("no", "not_entailment"))
    claims = [(claim, verdict) for (_, claim), verdict in zip(cases, verdicts, strict=True)]
    if cases[0][0] == cases[1][0]:
        return f"{cases[0][0]} {_ruled(rng, FOLLOWS, _some(rng, claims))}"
    number = pick(rng, (0, 1))
    return f"{cases[number][0]} {_ruled(rng, FOLLOWS, claims[number : number + 1])}"


def asked_twice(rng: random.Random) -> str:
    """A question, and whether others ask the same."""
    cases = [events.qqp_case(twin, same) for twin, same in zip(_twins(rng), (True, False), strict=True)]
    verdicts = (("same", "duplicate"), ("different", "not duplicate"))
    claims = [(two, verdict) for (_, two), verdict in zip(cases, verdicts, strict=True)]
    return f"{cases[0][0]} {_ruled(rng, SAME, _some(rng, claims))}"


def reasons(rng: random.Random) -> str:
    """Why somebody did something, and whom the reason is about."""
    schema = pick(rng, schemas.SCHEMAS)
    clause, x, y = schemas.filled(rng, schema)
    clause = clause[0].upper() + clause[1:]
    asked = "Who" if schema.people else "What"
    cases = shuffled(rng, ((pick(rng, schema.of_x), x), (pick(rng, schema.of_y), y)))
    ending, who = cases[0]
    link, kind = pick(rng, schemas.LINKS), rng.random()
    if kind < 0.25:
        return f"{clause} {link} {mark(who) if schema.people else f'the {mark(who)}'} {ending}."
    if kind < 0.5:
        return " ".join([f"{clause}.", *(f"{asked} {ending}? {mark(who)}." for ending, who in _some(rng, cases))])
    pair = shuffled(rng, [x, y])
    options = f"A '{pair[0]}', B '{pair[1]}'"
    if kind < 0.75:
        return " ".join(
            [
                f"{clause}. {options}.",
                *(f"{asked} {ending}? {mark(letter(pair, who))}." for ending, who in _some(rng, cases)),
            ]
        )
    nobody = pick(rng, ("somebody", "he or she")) if schema.people else "it"
    return f"{clause} {link} {nobody} {ending}. {options}: {mark(letter(pair, who))}."


def lettered(options: Sequence[str]) -> str:
    """Options behind their letters."""
    return ", ".join(f"{sign}.{option}" for sign, option in zip("ABCD", options, strict=False))


def letter(options: Sequence[str], option: str) -> str:
    """The letter of an option."""
    return "ABCD"[options.index(option)]


def opinion(rng: random.Random) -> str:
    """A review, or three judgements, and what their author thinks."""
    everyday = rng.random() < 0.7
    opening = pick(rng, ("In one word:", "All in all:", "So it was")) if everyday else "That is"

    def verdict(good: bool) -> str:
        word = ("good" if good else "bad") if everyday else ("positive" if good else "negative")
        return f"{opening} {mark(word)}."

    signs = [rng.random() < 0.5 for _ in range(3)]
    if rng.random() < 0.5:
        return f"{opinions.review(rng, signs[0])} {verdict(signs[0])}"
    said = [opinions.sentence(opinions.judgement(rng, pick(rng, opinions.ASPECTS), good)) for good in signs]
    return " ".join(f"{judgement} {verdict(good)}" for judgement, good in zip(said, signs, strict=True))


def shortened(rng: random.Random) -> str:
    """A post, and what it comes to."""
    text, summary = posts.post(rng)
    return f"{text} In short: {mark(summary)}"
