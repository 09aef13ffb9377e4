"""Tables of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.report import as_markdown, as_table, build_report, model_label, print_report


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
    console = Console(width=120, record=True, quiet=True)
    print_report(report, console=Console(width=120))
    shown = capsys.readouterr().out
    assert "75.00 ± 1.00" in shown and "majority" in shown and two[0] in shown
    console.print(as_table(report))
    print_report(report, "json")
    assert json.loads(capsys.readouterr().out)["runs"][1]["values"] == [50.0, 25.0, 100.0]


def test_labels_from_the_manifest() -> None:
    run = {"model": {"model": "runs/x", "kind": "run", "method": "teamlora"}}
    base = {"model": {"model": "playground/tiny", "kind": "base", "method": "none"}}
    assert model_label({"manifest": run}) == "runs/x (teamlora)"
    assert model_label({"manifest": base}) == "playground/tiny (untuned)"
    for foreign in (None, {}, {"model": "x"}, {"model": {"kind": "base"}}, [1]):
        assert model_label({"manifest": foreign}) is None


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
