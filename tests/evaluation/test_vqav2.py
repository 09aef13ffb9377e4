"""VQAv2, both splits, on fixtures in the official layout, with scores worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.benchmarks.vqav2 import VqaV2TestDev, VqaV2Val
from llava_teamlora.evaluation.scoring import export, score
from llava_teamlora.evaluation.types import Benchmark

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
DEV, VAL = VqaV2TestDev(), VqaV2Val()
SUFFIX = "\nAnswer the question using a single word or phrase."
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the fixture to break."""
    shutil.copytree(FIXTURES / "vqav2", tmp_path / "eval" / "vqav2")
    return tmp_path / "eval"


def write_answers(path: Path, benchmark: Benchmark, texts: list[str]) -> Path:
    rows = [answer_row(s, text, "m") for s, text in zip(benchmark.load(FIXTURES), texts, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_samples() -> None:
    dev = DEV.load(FIXTURES)
    assert [(sample.key, sample.question_id) for sample in dev][:2] == [
        ("262144000", 262144000),
        ("262144001", 262144001),
    ]
    assert dev[2].image == FIXTURES / "vqav2" / "test2015" / "COCO_test2015_000000000001.jpg"
    val = VAL.load(FIXTURES)
    assert [sample.question_id for sample in val] == [42000, 42001, 42002, 73000, 73001]  # the questions' order
    assert val[3].prompt == "What color is the net?" + SUFFIX
    assert val[3].targets == ("black",) * 7 + ("the black", "Black.", "white")
    assert (val[3].group, val[3].cluster) == ("other", "73")
    assert val[3].image == FIXTURES / "vqav2" / "val2014" / "COCO_val2014_000000000073.jpg"


def test_golden(tmp_path: Path) -> None:
    # All said yes, and LLaVA's submission is "yes": 1. All said "tic-tac-toe", the submission is "tic tac toe", and
    # nothing is processed where all agree: 0. "2" twice and "two": .9. One said white: .3. Four said "don't know": 1.
    answers = write_answers(tmp_path / "a.jsonl", VAL, ["Yes.", "tic-tac-toe", "Two", "White", "dont know"])
    scores = score(VAL, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert scores["total"]["value"] == pytest.approx(3.2 / 5)
    groups = {name: found["value"] for name, found in scores["groups"].items()}
    assert groups == pytest.approx({"yes/no": 1, "number": 0.9, "other": 0.15})
    # By picture, less .64 a row: 42: 1.9 - 1.92 = -.02; 73: 1.3 - 1.28 = .02. sqrt(2/1 * 2 * .02^2) / 5 = .04 / 5
    assert scores["total"]["stderr"] == pytest.approx(0.008)
    assert scores["baselines"]["yes"]["total"]["value"] == pytest.approx(1 / 5)


def test_exported_as_llava_does(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", DEV, ["Yes.", "The Tennis", "two"])
    (path,) = export(DEV, answers, tmp_path / "upload", FIXTURES)
    # All of test in its order; "" for what test-dev lacks.
    assert path.read_text() == (
        '[{"question_id": 262144000, "answer": "yes"}, {"question_id": 1004, "answer": ""}, '
        '{"question_id": 262144001, "answer": "tennis"}, {"question_id": 1005, "answer": "2"}, '
        '{"question_id": 7002, "answer": ""}]'
    )
    (path,) = export(VAL, write_answers(tmp_path / "b.jsonl", VAL, ["No", "", "a", "b", "c"]), tmp_path, FIXTURES)
    assert json.loads(path.read_text())[0] == {"question_id": 42000, "answer": "no"}


def test_the_list_of_all_questions_is_that_of_the_data_root(root: Path, tmp_path: Path) -> None:
    """Wherever the pictures lie."""
    samples = [dataclasses.replace(sample, image=tmp_path / "a.jpg") for sample in DEV.load(root)]
    (path,) = DEV.export(samples, ["a", "b", "c"], tmp_path, root)
    assert len(json.loads(path.read_text())) == 5


def test_another_test_file_is_refused(root: Path, tmp_path: Path) -> None:
    replace(root / "vqav2" / "llava_vqav2_mscoco_test2015.jsonl", "262144001", "9")
    answers = write_answers(tmp_path / "a.jsonl", DEV, ["Yes.", "The Tennis", "two"])
    with pytest.raises(UserError, match="lacks 1 of the 3 questions answered, 262144001 among them"):
        export(DEV, answers, tmp_path / "upload", root)


def test_built_as_llava_published() -> None:
    built = DEV.build(FIXTURES)
    assert [path.name for path in built] == [
        "llava_vqav2_mscoco_test-dev2015.jsonl",
        "llava_vqav2_mscoco_test2015.jsonl",
    ]
    for path, rows in built.items():
        assert "".join(json.dumps(row) + "\n" for row in rows) == path.read_text()


def test_test_dev_cannot_be_scored() -> None:
    with pytest.raises(UserError, match="vqav2: its true answers are not public.*vqav2_val"):
        DEV.judge(DEV.load(FIXTURES)[0], "yes")


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        (QUESTIONS, '"question_id": 73000', '"question_id": 7', r"questions\[3\]: .* has no answers to question_id 7"),
        (
            QUESTIONS,
            '"question_id": 73000',
            '"question_id": 42000',
            r"questions\[3\]: question_id 42000 stands already",
        ),
        (QUESTIONS, '"image_id": 42', '"image_id": "42"', r"questions\[0\]: 'image_id' must be int"),
        (QUESTIONS, '"questions"', '"rows"', "has no field 'questions'"),
        (
            ANNOTATIONS,
            '"answer_type": "other"',
            '"answer_type": "x"',
            r"annotations\[1\]: 'answer_type' must be one of",
        ),
        (
            ANNOTATIONS,
            '"question_id": 73000',
            '"question_id": 73001',
            r"annotations\[1\]: question_id 73001 is annotated",
        ),
        (ANNOTATIONS, '"answer": "no"', '"answer": false', r"annotations\[0\], answer 0: must be text"),
    ],
)
def test_broken_data(root: Path, name: str, old: str, new: str, problem: str) -> None:
    replace(root / "vqav2" / name, old, new)
    with pytest.raises(UserError, match=problem):
        VAL.load(root)


def test_a_short_question_file_is_refused(root: Path) -> None:
    path = root / "vqav2" / QUESTIONS
    content = json.loads(path.read_text())
    del content["questions"][1]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="lacks 1 questions of .*annotations.json, question_id 42001 first"):
        VAL.load(root)


def test_needs() -> None:
    assert all(need.path.exists() for benchmark in (DEV, VAL) for need in benchmark.needs(FIXTURES))
