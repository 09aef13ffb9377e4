"""Tables of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.report import build_report, draw_report, print_report
from llava_teamlora.evaluation.score_files import model_label
from llava_teamlora.evaluation.tables import as_markdown


def scores(total: float, **changes: Any) -> dict[str, Any]:
    def cells(value: float) -> dict[str, Any]:
        return {
            "total": {"value": value, "stderr": 0.01, "n": 8},
            "groups": {"yes/no": {"value": value / 2, "stderr": None, "n": 4}},
            "extra": {"lenient": {"value": 1.0, "stderr": None, "n": 8}},
        }

    return {
        "name": "easy_vqa",
        "version": 1,
        "metric": "accuracy",
        **cells(total),
        "baselines": {"majority": {"how": "always 'no'", **cells(0.25)}},
        "manifest": None,
        **changes,
    }


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    for name, content in (("a", scores(0.75)), ("b", scores(0.5))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return str(tmp_path / "a.json"), str(tmp_path / "b.json")


def test_markdown(two: tuple[str, str]) -> None:
    text = as_markdown(build_report([f"tuned={two[0]}", f"untuned|base={two[1]}"]))
    assert text.splitlines()[2:] == [
        "| answers by | total (n = 8) | yes/no (n = 4) | lenient (n = 8) |",
        "|---|---:|---:|---:|",
        "| tuned | 75.00 ± 1.00 | 37.50 | 100.00 |",
        "| untuned\\|base | 50.00 ± 1.00 | 25.00 | 100.00 |",
        "| majority | 25.00 ± 1.00 | 12.50 | 100.00 |",
    ]


def test_table_and_json(two: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    report = build_report(list(two))
    print_report(report, console=Console(width=120))
    shown = capsys.readouterr().out
    assert "75.00 ± 1.00" in shown and "majority" in shown and two[0] in shown
    print_report(report, "json")
    content = json.loads(capsys.readouterr().out)
    assert content["runs"][1]["values"] == [50.0, 25.0, 100.0]
    assert content["runs"][1]["stderrs"] == [1.0, None, None]
    # 50 ± 1.959964 x 1
    assert content["runs"][1]["intervals"][0] == pytest.approx([48.040036, 51.959964])
    assert (content["columns"], content["counts"]) == (["total", "yes/no", "lenient"], [8, 4, 8])
    assert content["baselines"][0]["label"] == "majority"


def test_csv_has_every_standard_error(two: tuple[str, str]) -> None:
    assert draw_report(build_report([f"a, b={two[0]}"]), "csv").splitlines() == [
        "label,kind,source,total,total_stderr,yes/no,yes/no_stderr,lenient,lenient_stderr,notes",
        '"a, b",run,,75.0,1.0,37.5,,100.0,,',
        "majority,baseline,,25.0,1.0,12.5,,100.0,,",
    ]


def test_a_maximum_other_than_100(tmp_path: Path) -> None:
    """MME: 0.75 of 2000, with one subtask of 200; without a maximum it is percent (the tests above)."""
    file = tmp_path / "scores.json"
    cells = {
        "total": {"value": 0.75, "stderr": 0.01, "n": 2374, "maximum": 2000.0},
        "groups": {"OCR": {"value": 0.5, "stderr": None, "n": 40, "maximum": 200.0}},
    }
    file.write_text(json.dumps({**scores(0.5, name="mme", metric="perception", extra={}, baselines={}), **cells}))
    assert as_markdown(build_report([f"m={file}"])).splitlines() == [
        "mme: perception ± standard error, 2374 questions",
        "",
        "| answers by | total (n = 2374, of 2000) | OCR (n = 40, of 200) |",
        "|---|---:|---:|",
        "| m | 1500.00 ± 20.00 | 100.00 |",
    ]


@pytest.mark.parametrize("width", [110, 70, 50, 36])
def test_narrow_terminals_lose_no_figure(width: int, two: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    labels = [f"a rather long label {number}" for number in range(4)]
    report = build_report([f"{label}={two[number % 2]}" for number, label in enumerate(labels)])
    print_report(report, console=Console(width=width))
    shown = capsys.readouterr().out
    assert shown.count("75.00") == 2 and shown.count("37.50") == 2 and shown.count("± 1.00") == 5
    assert max(map(len, shown.splitlines())) <= width


def test_folders(two: tuple[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluation" / "easy_vqa").mkdir(parents=True)
    Path(two[0]).rename(run / "evaluation" / "easy_vqa" / "scores.json")
    for folder in (run, run / "evaluation", run / "evaluation" / "easy_vqa"):
        assert [row.label for row in build_report([str(folder)]).runs] == [str(folder)]
        assert [row.label for row in build_report([f"mine={folder}"]).runs] == ["mine"]
    (run / "evaluation" / "scores.json").write_text(json.dumps(scores(0.5)))  # nothing beside it is passed over
    assert len(build_report([str(run)]).runs) == len(build_report([str(run / "evaluation")]).runs) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no scores\.json.*evaluate run"):
        build_report([str(tmp_path / "empty")])


def test_another_judge_is_a_footnote_and_another_edition_refused(tmp_path: Path) -> None:
    files = []
    for name, judge in (("a", "gpt-4-0613"), ("b", "gpt-4-0613"), ("c", "other")):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(scores(0.5, name="mmvet", metric=f"MM-Vet score ({judge})", baselines={})))
    text = as_markdown(build_report([f"{file.stem}={file}" for file in files]))
    assert "| b | 50.00 ± 1.00 |" in text and "| c | 50.00<sup>a</sup> ± 1.00 |" in text
    assert text.endswith("- <sup>a</sup> MM-Vet score (other)\n")
    for file, digest in ((files[0], "0" * 64), (files[1], "1" * 64)):
        file.write_text(json.dumps(scores(0.5, manifest={"benchmark": {"data_sha256": digest}})))
    with pytest.raises(UserError, match=r"b\.json: its easy_vqa holds other questions than that of .*a\.json"):
        build_report([str(file) for file in files[:2]])


@pytest.mark.parametrize("flag", ["--out", "--plot"])
def test_a_table_does_not_take_the_place_of_its_scores(
    flag: str, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(two[0].partition("=")[2] or two[0])
    before = path.read_bytes()
    assert main(["evaluate", "report", *two, flag, str(path)]) == 1
    assert "holds scores of this very table" in capsys.readouterr().err and path.read_bytes() == before


def test_out_and_plot(two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, plot = tmp_path / "new" / "table.md", tmp_path / "plot.png"
    assert main(["evaluate", "report", f"$a_b$={two[0]}", two[1], "--out", str(table), "--plot", str(plot)]) == 0
    assert capsys.readouterr().out == f"table: {table}\nplot: {plot}\n"
    assert table.read_text() == as_markdown(build_report([f"$a_b$={two[0]}", two[1]]))
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.width > 600
    assert main(["evaluate", "report", *two, "--out", str(tmp_path / "table.txt")]) == 0
    assert "75.00 ± 1.00" in (tmp_path / "table.txt").read_text()


def test_labels_from_the_manifest() -> None:
    run = {"model": {"model": "runs/x", "kind": "run", "method": "teamlora"}}
    base = {"model": {"model": "playground/tiny", "kind": "base", "method": "none"}}
    assert model_label({"manifest": run}) == "runs/x (teamlora)"
    assert model_label({"manifest": base}) == "playground/tiny (untuned)"
    for foreign in (None, {}, {"model": "x"}, {"model": {"kind": "base"}}, [1]):
        assert model_label({"manifest": foreign}) is None


def test_rows_of_one_model_are_told_apart(tmp_path: Path) -> None:
    manifest = {"model": {"model": "runs/x", "kind": "run", "method": "teamlora"}}
    paths = [tmp_path / folder / "scores.json" for folder in ("fast", "paper")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps(scores(0.5, manifest=manifest)))
    labels = [row.label for row in build_report([*map(str, paths), f"mine={paths[0]}"]).runs]
    assert labels == [f"runs/x (teamlora), {path.parent}" for path in paths] + ["mine"]


def test_answers_and_rows_are_no_scores(tmp_path: Path) -> None:
    answers, rows, other = (tmp_path / name for name in ("m.jsonl", "scores.rows.jsonl", "empty.jsonl"))
    answers.write_text('{"question_id": 1, "text": "a"}\n{"question_id": 2, "text": "b"}\n')
    rows.write_text('{"key": "1", "text": "a", "targets": ["a"]}\n')
    other.write_text("")
    with pytest.raises(UserError, match=rf"m\.jsonl: looks like answers; score them first: .* --answers {answers}$"):
        build_report([f"b={answers}"])
    with pytest.raises(UserError, match=r"scores\.rows\.jsonl: holds rows, one a question; give the scores beside it"):
        build_report([str(rows)])
    with pytest.raises(UserError, match=r"empty\.jsonl: is no scores\.json; make one with evaluate score"):
        build_report([str(other)])


@pytest.fixture
def headed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark whose headline leaves out its group."""
    monkeypatch.setattr(BENCHMARKS["easy_vqa"], "headline", ("lenient",), raising=False)


@pytest.mark.usefixtures("headed")
def test_a_terminal_shows_the_headline(two: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "report", *two]) == 0
    shown = capsys.readouterr().out
    assert "lenient" in shown and "yes/no" not in shown and "37.50" not in shown
    assert shown.endswith("1 more figure: llava-teamlora evaluate report --full, or scores.json\n")
    assert main(["evaluate", "report", "--full", *two]) == 0
    shown = capsys.readouterr().out
    assert "yes/no" in shown and "37.50" in shown and "more figure" not in shown


@pytest.mark.usefixtures("headed")
def test_files_and_other_forms_are_whole(
    two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "report", *two, "--out", str(tmp_path / "table.txt")]) == 0
    assert "yes/no" in (tmp_path / "table.txt").read_text()
    capsys.readouterr()
    assert main(["evaluate", "report", *two, "--format", "csv"]) == 0
    assert "yes/no_stderr" in capsys.readouterr().out


def test_headlines_name_figures_that_there_are() -> None:
    """Of each benchmark that has one: a misspelt name would silently leave a figure out."""
    root = Path(__file__).parents[2] / "eval" / "fixtures"
    shortened = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.headline is not None}
    assert {"pope", "mme", "mmbench", "seed", "gqa", "mmvet"} <= shortened.keys()
    for name, benchmark in shortened.items():
        if name == "mmvet":
            benchmark = benchmark.with_grades(root / "mm-vet/results/example_gpt-4-0613-grade-3runs.json")
            rows = (root / "mm-vet/answers/example.jsonl").read_text().splitlines()
            texts = {f"v1_{row['question_id']}": row["text"] for row in map(json.loads, rows)}
        else:
            texts = {}
        if benchmark.server:
            continue
        samples = benchmark.load(root)
        found = benchmark.aggregate(samples, [benchmark.judge(s, texts.get(s.key, s.targets[0])) for s in samples])
        known = {*benchmark.groups, *found.groups, *found.extra}
        rare = {"all rotations", "seed_image", "seed_video"}  # only where there is something of the kind
        assert set(benchmark.headline or ()) - rare <= known, name


def test_unlike_scores_are_refused(two: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(scores(0.5, name="easy_vqa [partial: 3 of 8]")))
    with pytest.raises(UserError, match=r"other\.json: is of easy_vqa \[partial: 3 of 8\] .*report them apart"):
        build_report([two[0], str(other)])
    other.write_text("{}")
    with pytest.raises(UserError, match="holds no scores"):
        build_report([str(other)])
    other.write_text("[")
    with pytest.raises(UserError, match="is not JSON"):
        build_report([str(other)])
    with pytest.raises(UserError, match="cannot be read"):
        build_report([str(tmp_path / "nowhere.json")])


CELL = {"value": 0.5, "stderr": None, "n": 8}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": 3}, "name"),
        ({"version": None}, "version"),
        ({"metric": ["accuracy"]}, "metric"),
        ({"total": 0.5}, "total"),
        ({"total": {"value": 0.5}}, "total"),
        ({"total": {**CELL, "value": "0.5"}}, "total"),
        ({"total": {**CELL, "stderr": "0.1"}}, "total"),
        ({"total": {**CELL, "n": None}}, "total"),
        ({"total": {**CELL, "maximum": None}}, "total"),
        ({"server_score": 48.4}, "server_score"),
        ({"benchmark": 1, "data_sha256": 2}, "benchmark, data_sha256"),
        ({"groups": ["yes/no"]}, "groups"),
        ({"groups": {"yes/no": 0.5}}, "groups.yes/no"),
        ({"extra": None}, "extra"),
        ({"baselines": []}, "baselines"),
        ({"baselines": {"majority": 0.5}}, "baselines.majority"),
        ({"baselines": {"majority": {"total": CELL, "groups": {}}}}, "baselines.majority.extra"),
    ],
)
def test_malformed_scores_are_one_line(
    changes: dict[str, Any], part: str, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(two[1]).write_text(json.dumps({**scores(0.5), **changes}))
    for form in ("table", "md", "json"):
        assert main(["evaluate", "report", *two, "--format", form]) == 1
        said = capsys.readouterr().err
        assert said == f"error: {two[1]}: holds malformed scores ({part}); make it anew with evaluate score\n"
