"""LLaVA-Bench on the fixture: questions, LLaVA's answers and reviews, the relative score worked out by hand."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.llava_bench import LlavaBench, read_captions
from llava_teamlora.evaluation.scoring import export, score

ROOT = Path(__file__).parents[2] / "eval" / "fixtures"
FOLDER = ROOT / "llava-bench-in-the-wild"
ANSWERS = FOLDER / "answers" / "example.jsonl"
REVIEWS = FOLDER / "reviews" / "example.jsonl"

Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rescore(tmp_path: Path, reviews: Path | None, **options: Any) -> dict[str, Any]:
    return score(LlavaBench(), ANSWERS, tmp_path / "scores.json", data_root=ROOT, grades=reviews, **options)


def test_questions() -> None:
    samples = LlavaBench().load(ROOT)
    assert [(sample.key, sample.question_id, sample.group) for sample in samples] == [
        ("0", 0, "conv"),
        ("1", 1, "detail"),
        ("2", 2, "complex"),
        ("3", 3, "conv"),
    ]
    assert samples[1].prompt == "describe the picture." and samples[1].image == FOLDER / "images" / "001.jpg"
    assert samples[3].targets == ("Yes, an orange one.",)  # GPT-4's
    assert read_captions(ROOT)["002.jpg"] == "A tall brown rectangle.\nAn orange disc at its upper right."


def test_golden_scores(tmp_path: Path) -> None:
    """Marks (reference, answer): conv 8 6, detail 9 4.5, complex 7 7, conv 10 9; two pictures of two questions."""
    found = rescore(tmp_path, REVIEWS)
    assert found["metric"] == "relative score to GPT-4's answers (judge not recorded)"
    ratio = 26.5 / 34
    assert found["total"]["value"] == pytest.approx(ratio)
    groups = {name: cell["value"] for name, cell in found["groups"].items()}
    assert groups == pytest.approx({"conv": 15 / 18, "detail": 0.5, "complex": 1.0})
    assert found["extra"]["answers"]["value"] == pytest.approx(0.6625)  # 26.5 of 40
    assert found["extra"]["reference"]["value"] == pytest.approx(0.85)  # 34 of 40
    # Answer less ratio times reference, by picture: 10.5 - 17 ratio = -2.75 and 16 - 17 ratio = 2.75 marks; in shares
    # of the mean reference -.275 / .85 and .275 / .85; sqrt(2 / 1 * the sum of their squares) / 4.
    assert found["total"]["stderr"] == pytest.approx(math.sqrt(2 * 2 * (0.275 / 0.85) ** 2) / 4)
    rows = read(tmp_path / "scores.rows.jsonl")
    assert rows[1]["parsed"] == "9 4.5" and rows[1]["score"] == 0.45 and rows[1]["extra"] == {"reference": 0.9}


def test_better_than_the_reference_passes_100(tmp_path: Path) -> None:
    rows = [{**row, "tuple": [5, 10]} for row in read(REVIEWS)]
    assert rescore(tmp_path, write(tmp_path / "r.jsonl", rows))["total"]["value"] == 2.0


def test_scoring_needs_reviews(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate grade llava_bench"):
        rescore(tmp_path, None)
    with pytest.raises(UserError, match=r"evaluate grade llava_bench"):
        LlavaBench().judge(LlavaBench().load(ROOT)[0], "a")


def test_partial_reviews_score_the_reviewed_answers(tmp_path: Path) -> None:
    """Without the last, conv 10 9: (6 + 4.5 + 7) / (8 + 9 + 7)."""
    reviews = write(tmp_path / "some.jsonl", read(REVIEWS)[:3])
    with pytest.raises(UserError, match="score only the graded answers with --partial"):
        rescore(tmp_path, reviews)
    found = rescore(tmp_path, reviews, partial=True)
    assert found["name"] == "llava_bench [partial: 3 of 4]" and found["total"]["value"] == pytest.approx(17.5 / 24)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r: r[2].update(tuple=[-1, -1]), r"1 reviews could not be read .*\(questions 2\)"),
        (lambda r: r[2].update(tuple=[7]), r"line 3: 'tuple' must be two marks"),
        (lambda r: r[2].update(tuple=[7, 11]), r"line 3: 'tuple' must be two marks from 0 to 10"),
        (lambda r: r[2].update(tuple=[7, "7"]), r"line 3: 'tuple' must be two marks"),
        (lambda r: r[2].update(tuple=[float("nan"), 7]), r"line 3: 'tuple' must be two marks"),
        (lambda r: r[2].pop("tuple"), r"line 3: has no field 'tuple'"),
        (lambda r: r.append(r[0]), r"line 5: question 0 is reviewed a second time"),
        (lambda r: r[2].update(category="llava_bench_conv"), r"question 2 is 'conv' there, 'complex' here"),
        (lambda r: r.pop(), r"has no review of question 3 \(it has 3 reviews\)"),
        (lambda r: r.append({**r[0], "question_id": 77}), r"reviews 1 questions that the data has not \(77\)"),
        (lambda r: r.clear(), r"holds no reviews"),
        (lambda r: [row.update(tuple=[0, 5]) for row in r], r"all 4 marks of the reference answers are 0"),
    ],
)
def test_broken_reviews(edit: Callable[[Rows], object], words: str, tmp_path: Path) -> None:
    rows = read(REVIEWS)
    edit(rows)
    with pytest.raises(UserError, match=words):
        rescore(tmp_path, write(tmp_path / "changed.jsonl", rows))


def test_export_is_in_the_questions_order(tmp_path: Path) -> None:
    """LLaVA's eval_gpt_review_bench.py joins by position."""
    shuffled = write(tmp_path / "shuffled.jsonl", read(ANSWERS)[::-1])
    (path,) = export(LlavaBench(), shuffled, tmp_path, ROOT)
    rows = read(path)
    assert [row["question_id"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["text"] == "A door and the sun,\nor a book and a coin."
    assert all(isinstance(row["answer_id"], str) for row in rows)  # the script reads it


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        (
            "questions.jsonl",
            lambda r: r[1].update(category="chat"),
            r"line 2: 'category' must be one of conv, detail, complex",
        ),
        ("questions.jsonl", lambda r: r.append(r[0]), r"1 question ids twice \(0\)"),
        ("answers_gpt4.jsonl", lambda r: r.pop(), r"has no answer to question 3"),
        ("answers_gpt4.jsonl", lambda r: r[0].pop("text"), r"line 1: has no field 'text'"),
    ],
)
def test_broken_data(name: str, edit: Callable[[Rows], object], words: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / FOLDER.name)
    path = tmp_path / FOLDER.name / name
    rows = read(path)
    edit(rows)
    write(path, rows)
    with pytest.raises(UserError, match=words):
        LlavaBench().load(tmp_path)
