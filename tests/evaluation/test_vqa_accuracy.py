"""EvalAI's, VQA's and VizWiz's accuracies against the official rules, stated anew in loops."""

from __future__ import annotations

import random

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.vqa_accuracy import (
    evalai_answer,
    soft_accuracy,
    take_answers,
    vizwiz_accuracy,
    vqa_accuracy,
    vqa_answer,
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", ""),
        ("\n", ""),
        ("NO", "no"),
        ("Yes.", "yes"),
        ("No\nbecause", "no because"),
        ("(B)", "b"),
        ("A. cat", "cat"),  # the period goes, and then the letter as an article
        ("The Denny's", "denny 's"),
        ("dont", "don't"),
        ("Its a dog", "its dog"),  # "its" may be right as it is
        ("somebody'd", "somebodyd"),  # the official list has it the wrong way round
        ("None, ten?", "0 10"),
        ("7-Eleven", "7 eleven"),
        ("7 -Eleven", "7 eleven"),
        ("x-ray", "x ray"),
        ("x- ray", "x ray"),
        ("rock- n-roll", "rock nroll"),  # a mark beside a space anywhere goes everywhere without a gap
        ("$1,000.50", "$1000.50"),  # commas go first, so that the rule for thousands never applies
        ("1.", "1"),
        ("3. 5", "3 5"),  # a period after a digit goes too: the official lookbehind is mistyped
        ("u.s.a.", "usa"),
        ("." * 33, "."),  # only the first 32 go
        ("." * 40 + "yes", "." * 8 + "yes"),
        ("ja。", "ja。"),  # full-width marks are no punctuation
        ("Cat，dog", "cat，dog"),
        ("(）", "）"),
    ],
)
def test_evalai(text: str, left: str) -> None:
    assert evalai_answer(text) == left


def test_thousands_take_all_marks_without_a_gap() -> None:
    # VQA's own tool meets the comma: digit, comma, digit anywhere, and nothing leaves a gap.
    assert vqa_answer("1,000-yard") == "1000yard"
    assert vqa_answer("1000-yard") == "1000 yard"
    assert vqa_answer("a,b") == "b"  # -> "a b", and "a" is an article


@pytest.mark.parametrize(("same", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_leaving_one_out(same: int, accuracy: float) -> None:
    # 3 of 10: the 7 others see min(3 / 3, 1) = 1, the 3 themselves 2 / 3: (7 + 2) / 10 = .9
    people = ["x"] * same + ["y"] * (10 - same)
    assert soft_accuracy("x", people) == pytest.approx(accuracy)


def test_vqa_processes_only_where_people_differ() -> None:
    assert vqa_accuracy("Yes.", ["yes"] * 10) == ("Yes.", 0)
    assert vqa_accuracy(" yes\n", ["yes"] * 10) == ("yes", 1)
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["no"]) == ("yes", 1)
    assert vqa_accuracy("2", ["two"] * 9 + ["2"]) == ("2", 1)
    assert vqa_accuracy("two", ["two"] * 9 + ["two\n"]) == ("two", 1)  # line ends are no difference


def test_vizwiz_never_processes_the_people() -> None:
    assert vizwiz_accuracy("two", ["two"] * 8 + ["2", "2"]) == ("2", pytest.approx(0.6))
    assert vizwiz_accuracy("The Can.", ["can"] * 3 + ["a can"] * 7) == ("can", pytest.approx(0.9))
    assert vizwiz_accuracy("Yes.", ["yes"] * 10) == ("yes", 1)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "f.json, index 3: has no field 'answers'"),
        ({"answers": "yes"}, "f.json, index 3: 'answers' must be list"),
        ({"answers": ["yes"] * 9}, "f.json, index 3: 'answers' must hold 10 answers, found 9"),
        (
            {"answers": ["yes"] * 9 + [1]},
            "f.json, index 3, answer 9: must be text or have the text as 'answer', found 1",
        ),
        ({"answers": [{"text": "yes"}] * 10}, "f.json, index 3, answer 0: must be text .* found {'text': 'yes'}"),
    ],
)
def test_broken_answers(row: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        take_answers(row, "f.json, index 3")


def test_both_forms_of_answers() -> None:
    words = [str(number) for number in range(10)]
    assert take_answers({"answers": words}, "") == tuple(words)
    assert take_answers({"answers": [{"answer": word, "answer_id": 1} for word in words]}, "") == tuple(words)


_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_MENDED = {"dont": "don't", "couldnt've": "couldn't've", "couldn'tve": "couldn't've", "yall'll": "y'all'll"}


def stated(text: str, evalai: bool) -> str:
    """The official rules, mark by mark and character by character."""
    if evalai:
        text = text.lower()
        for old, new in ((",", ""), ("?", ""), ("'s", " 's")):
            text = new.join(text.split(old))
        text = " ".join(" ".join(text.strip().split("\n")).split("\t")).strip()
    thousands = any(
        text[i] == "," and text[i - 1].isdecimal() and text[i + 1].isdecimal() for i in range(1, len(text) - 1)
    )
    out = text
    for mark in _MARKS:
        beside_space = mark + " " in text or " " + mark in text
        out = "".join(("" if beside_space or thousands else " ") if c == mark else c for c in out)
    kept, dropped = [], 0
    for i, c in enumerate(out):
        if c == "." and dropped < 32 and not (i + 1 < len(out) and out[i + 1].isdecimal()):
            dropped += 1
        else:
            kept.append(c)
    words = []
    for word in "".join(kept).lower().split():
        word = {"none": "0", "zero": "0", "one": "1", "ten": "10"}.get(word, word)
        if word not in ("a", "an", "the"):
            words.append(_MENDED.get(word, word))
    return " ".join(words)


def test_fuzzed() -> None:
    draw = random.Random(0)
    words = [
        "a",
        "The",
        "an",
        "one",
        "Ten",
        "none",
        "zero",
        "yes",
        "NO",
        "Yes.",
        "(B)",
        "A. cat",
        "1,000",
        "1,,2",
        "12.5",
    ]
    words += [*_MENDED, "denny's", "u.s.a.", ".5", "3.", "．", "，", "İ", "ß", "٣,٣", "۱."]
    marks = [*_MARKS, ".", " ", "  ", "\n", "\t", "\r", "'", "'s", "." * 40, "\u2028", "\xa0"]
    for _ in range(5000):
        text = "".join(draw.choice(words if draw.random() < 0.5 else marks) for _ in range(draw.randrange(12)))
        assert evalai_answer(text) == stated(text, evalai=True), repr(text)
        assert vqa_answer(text) == stated(text, evalai=False), repr(text)
    long = "It's a 1,000-yard (dash). " * 400
    assert evalai_answer(long) == stated(long, evalai=True)
