"""Answers in free words: normal forms and shares, by hand and against a plain statement of the official tools."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections.abc import Callable

import pytest

from llava_teamlora.evaluation.cme.open_answers import (
    best_f1,
    chinese_form,
    nq_form,
    run_f1,
    squad_form,
    token_f1,
    trivia_form,
)


@pytest.mark.parametrize(
    ("text", "squad", "trivia"),
    [
        ("The U.S.'s  cat!", "uss cat", "u s s cat"),
        ("an e-mail", "email", "e mail"),
        ("A", "", ""),
        ("snake_case", "snakecase", "snake case"),
        ("Rock ‘n’ Roll", "rock ‘n’ roll", "rock n roll"),  # SQuAD drops ASCII's marks only
        ("théa the a.m.", "théa am", "théa m"),  # "a.m." -> "am", or "a m", whose a is an article
        ("None", "none", "none"),
        ("\t14 May\n1931 ", "14 may 1931", "14 may 1931"),
        ("ＡＢＣ", "ａｂｃ", "ａｂｃ"),  # full-width letters stay what they are
        ("", "", ""),
        ("...", "", ""),
    ],
)
def test_english_forms(text: str, squad: str, trivia: str) -> None:
    assert (squad_form(text), trivia_form(text)) == (squad, trivia)


def test_nqs_form_decomposes_first() -> None:
    assert nq_form("Röntgen") == nq_form("Ro\u0308ntgen") == "ro\u0308ntgen"
    # In "nin\u0303a" the tilde is no letter, so that an a of its own follows it: an article.
    assert nq_form("niña") == "nin\u0303"
    assert squad_form("niña") == "niña"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("《Ａ 计划》", "a计划"),
        ("3.5公里。", "3.5公里"),
        ("３．５公里", "3.5公里"),
        ("1,000 米", "1000米"),
        ("答：1949年。", "答1949年"),
        ("50%", "50%"),
        ("50％", "50%"),
        ("25℃", "25°c"),
        ("张三·李四", "张三李四"),
        ("a_b", "ab"),
        ("", ""),
        (" ？ ", "？"),  # marks alone stay: nothing would be equal to nothing
    ],
)
def test_chinese_form(text: str, form: str) -> None:
    assert chinese_form(text) == form


def test_shares_in_common() -> None:
    # "in the town of vela" and "vela town": 2 words of 5 and of 2: P 2/5, R 1, F1 = 2 * (2/5) / (7/5) = 4/7.
    assert token_f1("in the town of vela", "vela town") == pytest.approx(4 / 7)
    assert token_f1("two two", "two") == pytest.approx(2 / 3)  # the second "two" is one too many: P 1/2, R 1
    assert token_f1("", "") == token_f1("", "two") == token_f1("two", "") == 0
    # The longest run of "建于1949年" (7) in "1949年10月" (8) is "1949年" (5): F1 = 2 * 5 / 15.
    assert run_f1("建于1949年", "1949年10月") == pytest.approx(10 / 15)
    assert run_f1("甲乙丙", "丙乙甲") == pytest.approx(1 / 3)  # one character runs, though all three are there
    assert run_f1("", "") == run_f1("", "年") == 0
    assert best_f1(token_f1, "two", ["bells", "two", "two bells"]) == 1
    assert best_f1(token_f1, "two", []) == 0


def plain_squad(text: str) -> str:
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def plain_trivia(text: str) -> str:
    marks = {*string.punctuation, "‘", "’", "´", "`"}
    spaced = "".join(" " if c in marks else c for c in text.replace("_", " ").lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", spaced).split())


def plain_f1(said: str, accepted: str) -> float:
    ours, theirs, common = said.split(), accepted.split(), 0
    for word in ours.copy():
        if word in theirs:
            theirs.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(accepted.split())
    return 2 * precision * recall / (precision + recall)


def plain_run(said: str, accepted: str) -> float:
    runs = [n for n in range(len(said), 0, -1) if any(said[i : i + n] in accepted for i in range(len(said) - n + 1))]
    if not runs:
        return 0.0
    precision, recall = runs[0] / len(said), runs[0] / len(accepted)
    return 2 * precision * recall / (precision + recall)


PIECES = (
    "a", "A", "an", "The", "the", "Ada", "o'clock", "U.S.", "x-ray", "_", "__", "’", "‘t", "`", "´", "½", "é",
    "e\u0301", "ＡＢ", "。", "北京", "1949", "3.5", "，", " ", "\n", "\t", "\u3000", "None", "nan", "İ", "ß", "😀",
    "\x00", "ß.", "(a)",
)  # fmt: skip


def made_up(seed: int) -> str:
    draw = random.Random(seed)
    return draw.choice(("", " ")).join(draw.choices(PIECES, k=draw.randrange(9)))


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (squad_form, plain_squad),
        (trivia_form, plain_trivia),
        (nq_form, lambda text: plain_squad(unicodedata.normalize("NFD", text))),
    ],
)
def test_any_text_has_the_official_form(ours: Callable[[str], str], plain: Callable[[str], str]) -> None:
    for seed in range(3000):
        assert ours(made_up(seed)) == plain(made_up(seed)), made_up(seed)


def test_any_two_texts_have_the_official_f1() -> None:
    for seed in range(3000):
        said, accepted = squad_form(made_up(seed)), squad_form(made_up(-seed - 1))
        assert token_f1(said, accepted) == pytest.approx(plain_f1(said, accepted)), (said, accepted)
        assert run_f1(said, accepted) == pytest.approx(plain_run(said, accepted)), (said, accepted)


def test_long_answers_cost_little() -> None:
    long = "林远舟写了很多书，" * 1200  # 10,800 characters
    assert run_f1(chinese_form(long), "林远舟") == pytest.approx(6 / (9600 + 3))
    assert token_f1(squad_form("the cat " * 2000), "cat") == pytest.approx(2 / 2001)
