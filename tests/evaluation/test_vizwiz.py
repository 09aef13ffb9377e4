"""VizWiz, both splits, on fixtures in the official layout, with scores worked out by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.benchmarks.vizwiz import VizWizTest, VizWizVal
from llava_teamlora.evaluation.scoring import export, score
from llava_teamlora.evaluation.types import Benchmark, Verdict

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
TEST, VAL = VizWizTest(), VizWizVal()
SUFFIX = (
    "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)
# Three of ten said "ball", and "a ball" is another answer: .9; nine yes: 1; two said 2, seven two, and the answer
# becomes 2: .6; six unanswerable: 1; three unanswerable: .9; one no: .3.
ANSWERS = ["A ball.", "Yes", "two", "Unanswerable", "unanswerable", "no"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the fixture to break."""
    shutil.copytree(FIXTURES / "vizwiz", tmp_path / "eval" / "vizwiz")
    return tmp_path / "eval"


def write_answers(path: Path, benchmark: Benchmark, texts: list[str]) -> Path:
    rows = [answer_row(s, text, "m") for s, text in zip(benchmark.load(FIXTURES), texts, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def edit(root: Path, index: int, **fields: Any) -> None:
    """Change a row of ``val.json``; None removes the field."""
    path = root / "vizwiz" / "val.json"
    rows = json.loads(path.read_text())
    rows[index] = {name: value for name, value in {**rows[index], **fields}.items() if value is not None}
    path.write_text(json.dumps(rows))


def test_samples() -> None:
    first, second, *_ = TEST.load(FIXTURES)
    assert first.prompt == "What is this? " + SUFFIX  # the space is LLaVA's
    assert second.prompt == "What color is it?" + SUFFIX
    assert (first.key, first.question_id, first.targets) == ("VizWiz_test_00000000.jpg", 0, ())
    fourth = VAL.load(FIXTURES)[3]
    assert fourth.prompt == "What does this say?" + SUFFIX
    assert (fourth.key, fourth.question_id, fourth.group) == ("VizWiz_val_00000003.jpg", 3, "unanswerable")
    assert fourth.targets == ("unanswerable",) * 6 + ("unsuitable image",) * 4
    assert fourth.image == FIXTURES / "vizwiz" / "val" / "VizWiz_val_00000003.jpg"


def test_golden(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", VAL, ANSWERS)
    scores = score(VAL, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert scores["total"]["value"] == pytest.approx(4.7 / 6)
    groups = {name: found["value"] for name, found in scores["groups"].items()}
    assert groups == pytest.approx({"yes/no": 1, "number": 0.6, "other": 0.9, "unanswerable": 0.65})
    extra = {name: found["value"] for name, found in scores["extra"].items()}
    # Rows 0, 1, 2, 4 can be answered: (.9 + 1 + .6 + .9) / 4. Said of rows 3 and 4, true of 3 and 5: F1 = 2 * 1 / 4.
    assert extra == pytest.approx({"answerable": 0.85, "not answerable": 0.65, "unanswerable F1": 0.5})


def test_giving_up_every_time(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", VAL, ANSWERS)
    found = score(VAL, answers, tmp_path / "scores.json", data_root=FIXTURES)["baselines"]["unanswerable"]
    # 1, 0, 0, 6, 3 and 2 of ten: .3 + 0 + 0 + 1 + .9 + .6; F1 = 2 * 2 / (6 + 2)
    assert found["total"]["value"] == pytest.approx(2.8 / 6)
    assert found["extra"]["unanswerable F1"]["value"] == pytest.approx(0.5)


def test_f1_of_nothing_said_and_nothing_so() -> None:
    samples = VAL.load(FIXTURES)[:2]
    assert VAL.aggregate(samples, [Verdict("x", 0.0)] * 2).extra["unanswerable F1"].value == 0


def test_exported_as_llava_does(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", TEST, ["A Ball.", "", "Denny's", "two"])
    (path,) = export(TEST, answers, tmp_path / "upload", FIXTURES)
    # LLaVA's bytes: json.dump with its defaults, answers through EvalAI's processor.
    assert path.read_text() == (
        '[{"image": "VizWiz_test_00000000.jpg", "answer": "ball"}, '
        '{"image": "VizWiz_test_00000001.jpg", "answer": ""}, '
        '{"image": "VizWiz_test_00000002.jpg", "answer": "denny \'s"}, '
        '{"image": "VizWiz_test_00000003.jpg", "answer": "2"}]'
    )
    (path,) = export(VAL, write_answers(tmp_path / "b.jsonl", VAL, ANSWERS), tmp_path / "upload", FIXTURES)
    assert json.loads(path.read_text())[0] == {"image": "VizWiz_val_00000000.jpg", "answer": "ball"}


def test_built_as_llava_published() -> None:
    ((path, rows),) = TEST.build(FIXTURES).items()
    assert "".join(json.dumps(row) + "\n" for row in rows) == path.read_text()


def test_test_split_cannot_be_scored() -> None:
    sample = TEST.load(FIXTURES)[0]
    for attempt in (lambda: TEST.judge(sample, "yes"), lambda: TEST.aggregate([sample], [Verdict("yes", 1.0)])):
        with pytest.raises(UserError, match="vizwiz: its true answers are not public.*eval.ai.*vizwiz_val"):
            attempt()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"answer_type": "colour"}, "index 2: 'answer_type' must be one of yes/no, number, other, unanswerable, found"),
        ({"answerable": 2}, "index 2: 'answerable' must be 0 or 1, found 2"),
        ({"answerable": None}, "index 2: has no field 'answerable'"),
        ({"question": 3}, "index 2: 'question' must be str"),
        ({"answers": [{"answer": "yes"}] * 11}, "index 2: 'answers' must hold 10 answers, found 11"),
        ({"image": "VizWiz_val_00000001.jpg"}, "index 2: image .* stands already at .*index 1"),
    ],
)
def test_broken_rows(root: Path, fields: dict[str, Any], problem: str) -> None:
    edit(root, 2, **fields)
    with pytest.raises(UserError, match=problem):
        VAL.load(root)


def test_needs() -> None:
    assert all(need.path.exists() for benchmark in (TEST, VAL) for need in benchmark.needs(FIXTURES))
