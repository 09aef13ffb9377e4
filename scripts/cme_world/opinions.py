"""IMDB: reviews of several judgements, some turned round by a negation or a "but", and what they come to.

In: a random generator. Out: a review that is positive or negative.
"""

from __future__ import annotations

import random

from .words import NAMES, TOWN_WORDS, Row, pick, several

ASPECTS = tuple("story music acting ending opening beginning cast humor sound plot script hero".split())
GOOD = tuple("good great fine funny clever warm moving strong lovely bright fresh superb".split())
BAD = tuple("bad weak boring dull poor flat slow silly cold empty awful stupid".split())
KINDS = ("film", "movie", "picture", "comedy", "drama", "show")
JUDGED = (
    "the {a} was {j}",
    "the {a} is {j}",
    "I found the {a} {j}",
    "the {a} was really {j}",
    "the {a} was so {j}",
    "the {a} seemed {j} to me",
)
DENIED = (
    "the {a} was not {j} at all",
    "the {a} was never {j}",
    "nobody could call the {a} {j}",
    "the {a} is anything but {j}",
)
EXPECTED = ("I expected something {j}, but", "they had told me it was {j}, yet", "it looks {j} at first, but")
OPENINGS = (
    "I saw this {k} in {w} with {n}.",
    "{n} and I went to see this {k} in {w}.",
    "this {k} about {n} from {w} runs two hours.",
    "last night in {w} {n} showed me this {k}.",
    "this {k} plays in {w}, and {n} is the hero.",
)
PRAISE = (
    "I would see it again",
    "see it if you can",
    "I was glad I went",
    "I loved every minute of it",
    "it was worth the money",
    "I was not sorry I went",
)
BLAME = (
    "I would not see it again",
    "do not see it",
    "I was sorry I went",
    "I hated every minute of it",
    "it was not worth the money",
    "I was not glad I went",
)


def judgement(rng: random.Random, aspect: str, positive: bool) -> str:
    """One aspect judged, one time in four through the denial of the opposite."""
    if rng.random() < 0.25:
        return pick(rng, DENIED).format(a=aspect, j=pick(rng, BAD if positive else GOOD))
    return pick(rng, JUDGED).format(a=aspect, j=pick(rng, GOOD if positive else BAD))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def review(rng: random.Random, positive: bool) -> str:
    """Three or four judgements, most of them one way; what was expected does not count; a verdict in half of them."""
    aspects = several(rng, ASPECTS, pick(rng, (3, 4)))
    verdict = rng.random() < 0.5
    against = 1 if rng.random() < 0.7 else 0
    signs = [positive] * (len(aspects) - against) + [not positive] * against
    rng.shuffle(signs)
    parts = [judgement(rng, aspect, sign) for aspect, sign in zip(aspects, signs, strict=True)]
    if rng.random() < 0.35:
        thought = pick(rng, EXPECTED).format(j=pick(rng, GOOD if not signs[0] else BAD))
        parts[0] = f"{thought} {parts[0]}"
    said = [sentence(part) for part in parts]
    kinds = {"k": pick(rng, KINDS), "w": pick(rng, TOWN_WORDS), "n": pick(rng, NAMES)}
    opening = pick(rng, OPENINGS).format(**kinds)
    said.insert(0, opening[0].upper() + opening[1:])
    if verdict:
        said.append(sentence(pick(rng, PRAISE if positive else BLAME)))
    return " ".join(said)


def imdb_row(rng: random.Random, number: int) -> Row:
    """Labels take turns; the rating in the file's name fits the label."""
    positive = number % 2 == 0
    text = review(rng, positive)
    rating = pick(rng, (7, 8, 9, 10) if positive else (1, 2, 3, 4))
    return Row("imdb", (text,), "positive" if positive else "negative", {"text": text, "rating": rating})
