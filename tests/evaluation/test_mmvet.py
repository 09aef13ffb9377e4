"""MM-Vet on the fixture: questions, LLaVA's answers, grades of three runs worked out by hand, broken files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.mmvet import RUNS_SD, MmVet
from llava_teamlora.evaluation.judging.provenance import untied
from llava_teamlora.evaluation.report import build_report, print_report
from llava_teamlora.evaluation.scoring import export, score

ROOT = Path(__file__).parents[2] / "eval" / "fixtures"
FOLDER = ROOT / "mm-vet"
ANSWERS = FOLDER / "answers" / "example.jsonl"
GRADES = FOLDER / "results" / "example_gpt-4-0613-grade-3runs.json"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the fixture to break."""
    shutil.copytree(FOLDER, tmp_path / "data" / "mm-vet")
    return tmp_path / "data"


@pytest.fixture
def change_grades(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """The fixture's grade file after an edit."""

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        content = json.loads(GRADES.read_text())
        edit(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return path

    return change


def rescore(tmp_path: Path, grades: Path | None, answers: Path = ANSWERS, **options: Any) -> dict[str, Any]:
    return score(MmVet(), answers, tmp_path / "scores.json", data_root=ROOT, grades=grades, **options)


def test_questions() -> None:
    samples = MmVet().load(ROOT)
    assert [sample.key for sample in samples] == [f"v1_{number}" for number in range(6)]
    second = samples[1]
    assert second.prompt == "what color and what shape is it? "  # bare, with its space
    assert second.targets == ("red<AND>circle",)
    assert second.image == FOLDER / "images" / "v1_0.png" and second.cluster == "v1_0.png"
    assert second.group == "only rec_know"  # the file has know before rec; one order for all
    assert second.metadata == {"capability": ["rec", "know"]}
    assert all(isinstance(sample.image, Path) and sample.image.is_file() for sample in samples)


def test_golden_scores(tmp_path: Path) -> None:
    """Grades of the runs: 1 1 1 | .5 .5 .5 | 0 0 .2 | 1 1 .9 | 0 0 0 | .3 .4 .4."""
    found = rescore(tmp_path, GRADES)
    assert found["metric"] == "MM-Vet score (gpt-4-0613, 3 runs)"
    # The runs' totals are 2.8, 2.9 and 3.0 of 6.
    assert found["total"]["value"] == pytest.approx(2.9 / 6)
    assert found["extra"][RUNS_SD]["value"] == pytest.approx(0.1 / 6 * math.sqrt(2 / 3))
    # Means over runs: 1, .5, .2/3, 2.9/3, 0, 1.1/3. By picture, less the mean: 8/15, -.05, -2.9/6; three pictures.
    sums = 1.5 - 2 * 2.9 / 6, 4.2 / 3 - 3 * 2.9 / 6, -2.9 / 6
    assert found["total"]["stderr"] == pytest.approx(math.sqrt(3 / 2 * sum(u * u for u in sums)) / 6)
    groups = {name: cell["value"] for name, cell in found["groups"].items()}
    assert groups == pytest.approx(
        {
            "rec": (1 + 0.5 + 0.2 / 3 + 2.9 / 3 + 1.1 / 3) / 5,
            "ocr": 0.0,
            "know": 0.5,
            "gen": 1.1 / 3,
            "spat": (2.9 + 1.1) / 3 / 2,
            "math": 0.2 / 3,
        }
    )
    assert list(groups) == ["rec", "ocr", "know", "gen", "spat", "math"]
    assert found["extra"]["only rec_spat"] == {"value": pytest.approx(2.9 / 3), "stderr": None, "n": 1, "maximum": 100}
    rows = [json.loads(line) for line in (tmp_path / "scores.rows.jsonl").read_text().splitlines()]
    assert rows[2]["parsed"] == "0 0 0.2" and rows[2]["extra"]["run 3"] == 0.2
    assert rows[1]["targets"] == ["red<AND>circle"]


def test_one_run_has_no_sd(tmp_path: Path, change_grades: Callable[..., Path]) -> None:
    def first_run(content: dict[str, Any]) -> None:
        for entry in content.values():
            for name in entry:
                entry[name] = entry[name][:1]

    found = rescore(tmp_path, change_grades(first_run))
    assert found["metric"] == "MM-Vet score (gpt-4-0613, 1 run)"
    assert found["total"]["value"] == pytest.approx(2.8 / 6)
    assert RUNS_SD not in found["extra"]


def test_scoring_needs_grades(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate grade mmvet .*--grades"):
        rescore(tmp_path, None)
    sample = MmVet().load(ROOT)[0]
    for ask in (lambda: MmVet().judge(sample, "a"), lambda: MmVet().aggregate([sample], [])):
        with pytest.raises(UserError, match=r"evaluate grade mmvet"):
            ask()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda g: g["v1_3"]["score"].__setitem__(1, 1.1),
            r"v1_3, run 2: 'score' must be a number from 0 to 1, found 1.1",
        ),
        (lambda g: g["v1_3"]["score"].__setitem__(0, -0.1), r"v1_3, run 1: .*-0.1"),
        (lambda g: g["v1_3"]["score"].__setitem__(0, float("nan")), r"found nan"),
        (lambda g: g["v1_3"]["score"].__setitem__(0, True), r"found True"),
        (lambda g: g["v1_3"]["score"].__setitem__(0, "0.5"), r"found '0.5'"),
        (lambda g: g["v1_3"]["score"].pop(), r"v1_3: has 3 models, 3 contents and 2 scores"),
        (lambda g: [g["v1_3"][n].pop() for n in g["v1_3"]], r"1 questions with 2 runs, 5 questions with 3 runs \(v1_3"),
        (lambda g: [g[k].update(model=[], content=[], score=[]) for k in g], r"6 questions with 0 runs"),
        (lambda g: g["v1_3"].pop("model"), r"v1_3: has no field 'model'"),
        (lambda g: g.update(v1_3=[1]), r"'v1_3' must be dict"),
        (lambda g: g.pop("v1_3"), r"has no grade for v1_3 \(it grades 5 questions\)"),
        (
            lambda g: g.update({f"v2_{n}": g["v1_0"] for n in range(5)}),
            r"grades 5 questions that the data has not \(v2_0",
        ),
        (lambda g: g.clear(), r"holds no grades"),
    ],
)
def test_broken_grades(
    edit: Callable[[dict[str, Any]], object], words: str, tmp_path: Path, change_grades: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=words):
        rescore(tmp_path, change_grades(edit))


def test_a_table_of_means_is_not_a_grade_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table of means; give the …-grade-….json"):
        MmVet().with_grades(tmp_path / "x-cap-score-5runs.csv")


def test_partial_answers_need_only_their_grades(tmp_path: Path, change_grades: Callable[..., Path]) -> None:
    some = tmp_path / "some.jsonl"
    some.write_text("".join(ANSWERS.read_text().splitlines(keepends=True)[:2]))
    grades = change_grades(lambda g: [g.pop(f"v1_{number}") for number in range(2, 6)])
    found = rescore(tmp_path, grades, some, partial=True)
    assert found["name"] == "mmvet [partial: 2 of 6]" and found["total"]["value"] == pytest.approx(0.75)


def test_partial_grades_score_the_graded_answers(tmp_path: Path, change_grades: Callable[..., Path]) -> None:
    """The error recommends it: all is answered, two are graded."""
    grades = change_grades(lambda g: [g.pop(f"v1_{number}") for number in range(2, 6)])
    with pytest.raises(UserError, match="has no grade for v1_2 .*score only the graded answers with --partial"):
        rescore(tmp_path, grades)
    found = rescore(tmp_path, grades, partial=True)
    assert found["name"] == "mmvet [partial: 2 of 6]" and found["total"]["value"] == pytest.approx(0.75)
    last = tmp_path / "last.jsonl"
    last.write_text(ANSWERS.read_text().splitlines()[5])
    with pytest.raises(UserError, match="grades none of the 1 answers in .*last.jsonl"):
        rescore(tmp_path, grades, last, partial=True)


def test_build_gives_llavas_file(data: Path) -> None:
    """Field for field and in order; LLaVA's own has the fields in this order and the category conv throughout."""
    ((path, rows),) = MmVet().build(data).items()
    assert path == data / "mm-vet" / "llava-mm-vet.jsonl"
    assert "".join(json.dumps(row) + "\n" for row in rows) == path.read_text()
    assert list(rows[0]) == ["image", "text", "category", "question_id"] and rows[0]["category"] == "conv"


def test_export_is_what_the_official_tool_takes(tmp_path: Path) -> None:
    (path,) = export(MmVet(), ANSWERS, tmp_path, ROOT)
    content = json.loads(path.read_text())
    assert list(content) == [f"v1_{number}" for number in range(6)]
    assert content["v1_4"] == "" and content["v1_5"].endswith("Both are small | \u201cplain\u201d.")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("v1_2"), r"1 not in mm-vet.json \(v1_2\); are the two files of different editions"),
        (lambda t: t.update(v1_9=t["v1_0"]), r"1 only in mm-vet.json \(v1_9\)"),
        (
            lambda t: t["v1_2"].update(capability=["rec", "sequence"]),
            r"v1_2: 'capability' must be some of rec, .*sequence",
        ),
        (lambda t: t["v1_2"].update(capability=[]), r"v1_2: 'capability'"),
        (lambda t: t["v1_2"].pop("answer"), r"v1_2: has no field 'answer'"),
        (lambda t: t["v1_2"].update(imagename="v1_9.png"), r"line 3: its picture is 'v1_2.jpg', .*'v1_9.png' for v1_2"),
    ],
)
def test_broken_data(edit: Callable[[dict[str, Any]], object], words: str, data: Path) -> None:
    path = data / "mm-vet" / "mm-vet.json"
    truth = json.loads(path.read_text())
    edit(truth)
    path.write_text(json.dumps(truth))
    with pytest.raises(UserError, match=words):
        MmVet().load(data)


def test_a_question_twice(data: Path) -> None:
    path = data / "mm-vet" / "llava-mm-vet.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0])
    with pytest.raises(UserError, match=r"questions 1 twice \(v1_0\)"):
        MmVet().load(data)


def test_build_of_another_version(data: Path) -> None:
    path = data / "mm-vet" / "mm-vet.json"
    path.write_text(path.read_text().replace('"v1_3"', '"v2_3"'))
    with pytest.raises(UserError, match=r"'v2_3' is not an id of MM-Vet v1"):
        MmVet().build(data)


def test_what_it_needs() -> None:
    needs = MmVet().needs(ROOT)
    assert [need.path.name for need in needs] == ["mm-vet.json", "llava-mm-vet.jsonl", "images"]
    assert all(need.path.exists() for need in needs)
    assert [need.built for need in needs] == [False, True, False]


def test_grades_that_nothing_ties_to_the_answers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An official grade file is named after the model; one of another model is scored, but not without a word."""
    assert "note" not in rescore(tmp_path, GRADES)["grades"] and capsys.readouterr().err == ""
    other = Path(shutil.copy(GRADES, tmp_path / "examples-13b_gpt-4-grade-3runs.json"))
    note = rescore(tmp_path, other)["grades"]["note"]
    assert note.startswith("grades could not be tied to the answers: the grade file is named after none of example")
    assert capsys.readouterr().err == f"{other}: {note}\n"
    print_report(build_report([str(tmp_path / "scores.json")]))
    assert "grades could not be tied" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model_id", "tied"),
    [
        ("my-run", True),
        ("/runs/my-run", True),
        ("my-run/checkpoint-9", True),
        ("my-run-2", False),
        ("run", False),
        ("my", False),
    ],
)
def test_grades_may_be_named_after_the_model(tmp_path: Path, model_id: str, tied: bool) -> None:
    rows = [json.loads(line) | {"model_id": model_id} for line in ANSWERS.read_text().splitlines()]
    answers = tmp_path / "predictions.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = Path(shutil.copy(GRADES, tmp_path / "my-run_gpt-4-grade-3runs.json"))
    assert ("note" not in rescore(tmp_path, grades, answers)["grades"]) is tied


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("llava-v1.5-7b.json", True),
        ("llava-v1.5-7b_gpt-4-0613-grade-1runs.json", True),
        ("llava-v1.5-7b-lora_gpt-4-0613-grade-1runs.json", False),
        ("my-llava-v1.5-7b.json", False),
        ("llava-v1.5-7b2.json", False),
    ],
)
def test_grades_of_a_model_with_a_longer_name_are_not_this_ones(tmp_path: Path, name: str, tied: bool) -> None:
    answers = Path(shutil.copy(ANSWERS, tmp_path / "llava-v1.5-7b.jsonl"))
    answers.write_text(answers.read_text().replace('"model_id": "example"', '"model_id": "llava-v1.5-7b"'))
    assert (untied(Path(shutil.copy(GRADES, tmp_path / name)), answers) is None) is tied
