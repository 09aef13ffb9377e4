"""GQA on a fixture in the official layout, with scores worked out by hand."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.gqa import Gqa
from llava_teamlora.evaluation.reading import read_json_lines
from llava_teamlora.evaluation.report import build_report, draw_report
from llava_teamlora.evaluation.scoring import export, score

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
BENCH = Gqa()
OFFICIAL = "data/testdev_balanced_questions.json"
QUESTIONS = "llava_gqa_testdev_balanced.jsonl"
# Right but for 203 (blue), 205 (a space after the period keeps it) and 208 (bed).
ANSWERS = ["No.", "Red", "red", "blue", "no. ", "Yes", "Tennis racket..", "sofa"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the fixture to break."""
    shutil.copytree(FIXTURES / "gqa", tmp_path / "eval" / "gqa")
    return tmp_path / "eval"


def llava_answers(path: Path, texts: list[str]) -> Path:
    """As LLaVA's merge.jsonl: no key, and in any order."""
    rows = [row for _, row in read_json_lines(FIXTURES / "gqa" / QUESTIONS)]
    lines = [
        json.dumps({"question_id": row["question_id"], "prompt": row["text"], "text": text, "metadata": {}})
        for row, text in zip(rows, texts, strict=True)
    ]
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_samples() -> None:
    samples = BENCH.load(FIXTURES)
    assert [sample.key for sample in samples] == [str(number) for number in range(201, 209)]
    third = samples[2]
    assert third.prompt == "What color is the DVD player?\nAnswer the question using a single word or phrase."
    assert (third.targets, third.group, third.cluster) == (("blue",), "query", "n2")
    assert third.image == FIXTURES / "gqa" / "data" / "images" / "n2.jpg"


def test_golden(tmp_path: Path) -> None:
    answers = llava_answers(tmp_path / "a.jsonl", ANSWERS)
    scores = score(BENCH, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert scores["total"]["value"] == 5 / 8
    groups = {name: found["value"] for name, found in scores["groups"].items()}
    assert groups == {"verify": 1, "query": 0.5, "choose": 1, "logical": 0, "compare": 1}
    extra = {name: found["value"] for name, found in scores["extra"].items()}
    # Binary is all that is no query: 201, 204, 206 of four. Attributes: 202, 204, 206 of four.
    # Groups of alike questions: "color" has truths red 1, blue 2 and answers red 2, blue 1: 1/1 + 1/2 for 3 questions;
    # "furniture" bed 1, said 0: 1 for 1; "" is a group too, all right: 0 for 1. (3 * 1.5 + 1) / 5 / 100 = .011
    assert extra == pytest.approx(
        {
            "binary": 0.75,
            "open": 0.5,
            "attribute": 0.75,
            "category": 0,
            "scene": 1,
            "object": 0,
            "relation": 1,
            "distribution ↓": 0.011,
        }
    )
    assert scores["extra"]["distribution ↓"]["maximum"] == 1
    shown = draw_report(build_report([str(tmp_path / "scores.json")]), "md")
    assert "distribution ↓ (n = 5, of 1)" in shown and "- ↓: lower is better\n" in shown
    # By picture, less 5/8 a row: n1 2 - 10/8 = 6/8; n2 1 - 15/8 = -7/8; n3 2 - 15/8 = 1/8.
    # sqrt(3/2 * (36 + 49 + 1)) / 8 / 8
    assert scores["total"]["stderr"] == pytest.approx(129**0.5 / 64)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", ""),
        ("\n", "\n"),
        ("NO", "no"),
        ("Yes.", "yes"),
        ("(B)", "(b)"),
        ("A. cat", "a. cat"),
        ("no。", "no。"),
        ("no" + "." * 40, "no"),
        ("no. ", "no. "),
        ("A" * 10_000, "a" * 10_000),
    ],
)
def test_parse(text: str, parsed: str) -> None:
    assert BENCH.judge(BENCH.load(FIXTURES)[0], text).parsed == parsed


def test_a_part_without_groups_has_no_distribution() -> None:
    first = BENCH.load(FIXTURES)[:1]
    scores = BENCH.aggregate(first, [BENCH.judge(first[0], "no")])
    assert set(scores.extra) == {"binary", "scene"}


def test_exported_as_llava_does(tmp_path: Path) -> None:
    (path,) = export(BENCH, llava_answers(tmp_path / "a.jsonl", ANSWERS), tmp_path, FIXTURES)
    assert path.name == "testdev_balanced_predictions.json"
    assert path.read_text().startswith(
        '[{"questionId": "201", "prediction": "no"}, {"questionId": "202", "prediction": "red"}, '
    )


def test_built_as_llava_published() -> None:
    ((path, rows),) = BENCH.build(FIXTURES).items()
    assert "".join(json.dumps(row) + "\n" for row in rows) == path.read_text()


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        (QUESTIONS, '"202"', '"999"', "line 2: .* has no question '999'; is it of testdev_balanced"),
        (QUESTIONS, '"202"', '"201"', "line 2: question_id '201' stands already at .*line 1"),
        (
            QUESTIONS,
            "DVD player",
            "dvd player",
            "line 3: 'text' is .*, but by .*'203' it must be 'What color is the DVD",
        ),
        (
            OFFICIAL,
            '"structural": "choose"',
            '"structural": "chose"',
            "'204': 'types' must be .* found 'chose' and 'attr'",
        ),
        (OFFICIAL, '"isBalanced": true', '"isBalanced": false', "'201': is not of the balanced questions"),
        (OFFICIAL, '"global": "color"', '"global": 1', "'202': 'global' must be str or NoneType"),
        (OFFICIAL, '"answer": "no"', '"answer": false', "'201': 'answer' must be str"),
    ],
)
def test_broken_data(root: Path, name: str, old: str, new: str, problem: str) -> None:
    path = root / "gqa" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=problem):
        BENCH.load(root)


def test_a_short_question_file_is_refused(root: Path) -> None:
    path = root / "gqa" / QUESTIONS
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match=r"lacks 1 questions of testdev_balanced_questions.json \('201' first\)"):
        BENCH.load(root)


def test_needs() -> None:
    assert all(need.path.exists() for need in BENCH.needs(FIXTURES))
