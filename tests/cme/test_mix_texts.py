"""Hashed 13-grams against sets of tuples, and what counts as the same text."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from llava_teamlora.cme import leaks
from llava_teamlora.cme.leaks import Asked, LeakIndex
from llava_teamlora.cme.texts import NGRAM, ngrams, normal, words

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


def plain_words(text: str) -> list[str]:
    return WORD.findall(text.lower().replace("'", "").replace("’", ""))


def plain_ngrams(text: str) -> set[tuple[str, ...]]:
    found = plain_words(text)
    return {tuple(found[i : i + NGRAM]) for i in range(len(found) - NGRAM + 1)}


def some_texts(seed: int) -> list[str]:
    rng = random.Random(seed)
    english = ["the", "cat's", "sat", "on", "a", "MAT", "in", "1984", "who", "knows", "why"]
    chinese = list("天地玄黄宇宙洪荒日月")
    texts = []
    for _ in range(300):
        pool, gap = rng.choice([(english, " "), (chinese, ""), (english + chinese, " ")])
        marks = rng.choice([gap, f",{gap}", f"。{gap}"])
        texts.append(marks.join(rng.choices(pool[: rng.randint(2, len(pool))], k=rng.randint(0, 30))))
    return texts


def test_ngrams_are_those_of_a_plain_loop() -> None:
    texts = some_texts(0)
    hashes, owners = ngrams(texts)
    plain = [(gram, number) for number, text in enumerate(texts) for gram in sorted(plain_ngrams(text))]
    assert sorted(set(owners.tolist())) == sorted({number for _, number in plain})
    # As many different hashes as different tuples, in all and in each text: none collide, none is missed.
    assert len(np.unique(hashes)) == len({gram for gram, _ in plain})
    for number, text in enumerate(texts):
        assert len(np.unique(hashes[owners == number])) == len(plain_ngrams(text))


def test_overlaps_are_those_of_a_plain_loop() -> None:
    rng, asked, rows = random.Random(3), some_texts(1)[:150], some_texts(2)[:100]
    for _ in range(200):  # stretches of 10 to 16 words of an item, in other words
        found = plain_words(rng.choice(asked))
        start = rng.randrange(len(found) + 1)
        rows.append(" ".join(["new", *found[start : start + rng.randint(10, 16)], "end"]))
    index = LeakIndex(Asked(str(number), (text, "other")) for number, text in enumerate(asked))
    seen = set().union(*map(plain_ngrams, asked))
    expected = [bool(plain_ngrams(text) & seen) for text in rows]
    assert 20 < sum(expected) < 150
    assert [leak is not None for leak in index.check([(text,) for text in rows])] == expected


def test_what_the_filter_lets_pass_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_FILTER_BITS", 3)  # with so few bits it lets nearly all pass
    index = LeakIndex(Asked(str(number), (text, "other")) for number, text in enumerate(some_texts(1)))
    assert index.check([(" ".join(f"new{n}" for n in range(start, start + 20)),) for start in range(50)]) == [None] * 50


def test_words_are_counted_as_read() -> None:
    # don't=dont, 3, cats, 猫, 很, 好 -> six
    hashes, owners = words(["Don't 3-cats: 猫很好!", "", "dont"])
    assert owners.tolist() == [0] * 6 + [2]
    assert hashes[0] == hashes[6]


def test_the_character_that_ends_a_text_may_stand_in_one() -> None:
    hashes, owners = words(["a\0b", "c", "a b"])
    assert owners.tolist() == [0, 0, 1, 2, 2]
    assert hashes[:2].tolist() == hashes[3:].tolist()
    shared = " ".join(f"w{number}" for number in range(13))
    index = LeakIndex([Asked("one", ("a\0b\0c", "d")), Asked("two", (f"so {shared}", "e"))])
    found = index.check([("x\0" * 9, "y"), (f"\0{shared}",)])
    assert [leak and leak.place for leak in found] == [None, "two"]


def test_thirteen_words_in_a_row_and_not_twelve() -> None:
    shared = [f"w{number}" for number in range(13)]
    index = LeakIndex([Asked("item", (f"before {' '.join(shared)} after", "B"))])
    whole, cut = " ".join(shared), " ".join(shared[:12])
    found = index.check([(f"x {whole} y",), (f"x {cut} y",), (f"{cut} z w12",), (f"{cut}", "w12")])
    assert [leak and leak.reason for leak in found] == ["13-gram", None, None, None]


def test_reasons_in_their_order() -> None:
    premise = "A tall man walks his small brown dog along the river on a cold winter morning."
    index = LeakIndex(
        [Asked("anli 1", (premise, "A man is outside.")), Asked("nq 1", ("who wrote it",)), Asked("nq 2", ("?",))]
    )
    rows = [
        (premise.upper(), "a man is outside"),  # the item, but for case and the mark at its end
        ("A man is outside.", premise),  # in another order
        ("Who wrote it?",),
        ("Something else", "who  wrote it"),  # one of its texts
        (premise, "The dog sleeps."),  # the same premise, another hypothesis
        (f"Read this. {premise} What is brown?",),
        ("A man is outside.",),  # one short text of an item's two
        ("who wrote it and why",),
        ("!",),  # no words at all
    ]
    found = index.check(rows)
    assert [leak and leak.reason for leak in found] == ["item"] * 4 + ["text", "13-gram", None, None, None]
    assert [leak.place for leak in found if leak] == ["anli 1", "anli 1", "nq 1", "nq 1", "anli 1", "anli 1"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("Who  wrote\nit?", "who wrote it", True), ("ＡＢＣ", "abc", True), ("2+2", "2-2", False), ("a-b", "a b", False)],
)
def test_what_is_the_same_text(one: str, other: str, same: bool) -> None:
    assert (normal(one) == normal(other)) is same
