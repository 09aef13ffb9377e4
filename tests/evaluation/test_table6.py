"""Scores of several benchmarks in the shape of the paper's Table 6."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.paper import NINE, PUBLISHED, average, maximum_of
from llava_teamlora.evaluation.report import build_report, draw_report, print_report
from llava_teamlora.evaluation.server_scores import record_score
from llava_teamlora.evaluation.tables import Cell, Column, Row, as_markdown, ranked

TEAM = PUBLISHED[2]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(folder, benchmark, shown value, standard error or None, …)``: one scores.json; returns the run folder."""

    def one(run: str, benchmark: str, value: float, stderr: float | None = None, **changes: Any) -> Path:
        maximum = maximum_of(benchmark)
        share = {"value": value / maximum, "stderr": stderr and stderr / maximum, "n": 10, "maximum": maximum}
        content = {
            "benchmark": benchmark,
            "name": benchmark,
            "version": 1,
            "metric": "accuracy",
            "total": share,
            "groups": {},
            "extra": {},
            "baselines": {},
            "manifest": None,
            **changes,
        }
        file = tmp_path / run / "evaluation" / benchmark / "scores.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        return tmp_path / run

    return one


@pytest.fixture
def full(write: Write) -> Path:
    """A run with TeamLoRA's published figures, each with a standard error of 0.9 (MME: 18, of 2000)."""
    for name, value in TEAM.values.items():
        run = write("run", name, value, 18 if name == "mme" else 0.9)
    return run


def lines(text: str) -> dict[str, list[str]]:
    """Cells by label of a Markdown table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows}


def test_the_papers_averages_follow_from_its_figures() -> None:
    """(1505.2/20 + 62.8 + 53.7 + 60.2 + 84.8 + 67.8 + 56.9 + 30.2 + 48.4) / 9 = (75.26 + 464.8) / 9 = 60.01; so on."""
    printed = {"LoRA r=32 (paper)": 60.01, "MoELoRA r=8 (paper)": 59.80, "TeamLoRA r=8 (paper)": 60.44}
    for row in PUBLISHED[:3]:
        mine = (row.values["mme"] / 20 + sum(row.values[name] for name in NINE[1:])) / 9
        shares = {name: value / maximum_of(name) for name, value in row.values.items()}
        assert round(mine, 2) == round(average(shares), 2) == row.average == printed[row.label]
    assert [row.average for row in PUBLISHED[3:]] == [None, None]
    assert all(set(NINE) <= set(row.values) and row.source for row in PUBLISHED)


def test_a_full_set_has_an_average_with_its_error(full: Path) -> None:
    text = as_markdown(build_report([f"mine={full}", f"other={full / 'evaluation' / 'mme'}"]))
    rows = lines(text)
    assert rows["answers by"] == ["MME", "MMB", "MMB-CN", "SEED", "POPE", "SQA-I", "VQA-T", "MM-Vet", "VizWiz", "Avg."]
    # Every share's standard error is 0.009: sqrt(9 * 0.009^2) * 100 / 9 = 0.3.
    assert rows["mine"][-1] == "60.44 ± 0.30"
    assert rows["mine"][0] == "**1513.5** ± 18.0" and rows["mine"][1] == "62.6 ± 0.9"
    assert rows["other"] == ["**1513.5** ± 18.0", *["-"] * 9]
    assert "- no average for other: MMB, MMB-CN, SEED, POPE, SQA-I, VQA-T, MM-Vet, VizWiz missing\n" in text
    content = json.loads(draw_report(build_report([f"mine={full}"]), "json"))
    assert content["columns"] == [*NINE, "average"] and content["maxima"][0] == 2000
    assert content["runs"][0]["values"][-1] == pytest.approx(60.4417, abs=1e-4)
    low, high = content["runs"][0]["intervals"][-1]
    assert (low, high) == pytest.approx((60.4417 - 0.588, 60.4417 + 0.588), abs=1e-3)
    assert math.isclose(content["runs"][0]["stderrs"][-1], 0.3)


def test_the_papers_rows_with_its_own_marks(full: Path) -> None:
    """Bold the best, underlined the second, as printed there (ties: 68.7 and 57.1, both bold, no second)."""
    rows = lines(as_markdown(build_report([str(full)])))
    assert " ".join(rows["LoRA r=32 (paper)"]) == (
        "<u>1505.2</u> **62.8** 53.7 **60.2** <u>84.8</u> 67.8 56.9 <u>30.2</u> 48.4 <u>60.01</u>"
    )
    assert " ".join(rows["MoELoRA r=8 (paper)"]) == (
        "1472.7 62.3 <u>53.8</u> 59.5 84.4 **68.7** **57.1** 30.1 <u>48.7</u> 59.80"
    )
    assert " ".join(rows["TeamLoRA r=8 (paper)"]) == (
        "**1513.5** <u>62.6</u> **54.0** <u>60.0</u> **85.3** **68.7** **57.1** **31.2** **49.4** **60.44**"
    )
    assert rows["LLaVA-1.5-7B, LoRA (LLaVA)"][0] == "1476.9"
    alone = as_markdown(build_report([str(full)], published=False))
    assert "paper)" not in alone and "LLaVA-1.5" not in alone


def test_ranks_are_of_what_the_reader_sees() -> None:
    def marks(*values: float | None, comparable: tuple[bool, ...] = ()) -> list[int | None]:
        cells = [v if v is None else Cell(v, comparable=c) for v, c in zip(values, comparable or [True] * 9)]  # noqa: B905
        rows = ranked([Row("", (cell,)) for cell in cells], [Column("", "", decimals=1)])
        return [row.cells[0] and row.cells[0].rank for row in rows]

    assert marks(57.12, 57.14, 56.9) == [1, 1, 0]  # 57.1 twice
    assert marks(57.1, 56.91, 56.94, 50.0) == [1, 2, 2, 0]
    assert marks(57.1, 56.9) == [1, 0]
    assert marks(57.1) == [0] and marks(57.1, None) == [0, None]
    assert marks(99.0, 57.1, 56.9, 56.0, comparable=(False, True, True, True)) == [0, 1, 2, 0]
    assert marks(5.0, 10.0, 7.5) == [0, 1, 2]


def test_further_benchmarks_stand_after_the_average(full: Path, write: Write) -> None:
    for name in ("zebra", "vqav2", "gqa", "easy_vqa"):
        write("run", name, 50)
    rows = lines(as_markdown(build_report([str(full)])))
    assert rows["answers by"][9:] == ["Avg.", "GQA", "VQAv2", "easy-VQA", "zebra"]
    assert rows["LLaVA-1.5-7B, full (LLaVA)"][10:] == ["62.0", "78.5", "-", "-"]
    assert rows["TeamLoRA r=8 (paper)"][10:] == ["-", "-", "-", "-"]
    assert rows[str(full)][9:] == ["60.44 ± 0.30", "50.0", "50.0", "50.0", "50.0"]


def test_without_any_of_the_nine_there_is_no_average(write: Write) -> None:
    write("run", "zebra", 50)
    text = as_markdown(build_report([str(write("run", "easy_vqa", 40))]))
    assert lines(text)["answers by"] == ["easy-VQA", "zebra"] and "Avg." not in text and "paper" not in text


def test_partial_scores_are_marked_and_not_averaged(full: Path, write: Write) -> None:
    write("run", "pope", 99.9, name="pope [partial: 3 of 8910] [likelihood]")
    write("run2", "mme", 1000)
    write("run2", "pope", 80)
    text = as_markdown(build_report([f"a={full}", f"b={full.parent / 'run2'}"]))
    rows = lines(text)
    assert rows["a"][4] == "99.9<sup>a,b</sup>" and rows["b"][4] == "80.0"  # neither is best: they are not alike
    assert rows["a"][-1] == rows["b"][-1] == "-"
    assert "- <sup>a</sup> partial: 3 of 8910\n- <sup>b</sup> likelihood\n- no average for a: POPE partial\n" in text


def test_the_average_bears_the_footnotes_of_what_it_is_made_of(full: Path, write: Write) -> None:
    write("run", "seed", 60, 0.9, name="seed [likelihood]")
    write("run", "mmvet", 31.2, 0.9, grades={}, metric="MM-Vet score (mine)")
    report = build_report([f"mine={full}"])
    average = report.runs[0].cells[-1]
    assert average is not None and average.notes == ("likelihood", "MM-Vet score (mine)") and not average.comparable
    rows = lines(as_markdown(report))
    assert rows["mine"][3] == "60.0<sup>a</sup> ± 0.9" and rows["mine"][-1].startswith("60.44<sup>a,b</sup>")


def test_a_part_of_mme_says_of_how_much_it_is(full: Path, write: Write) -> None:
    """Two subtasks of 200 were begun; beside a full run, and beside nobody's but the paper's."""
    part = {"total": {"value": 1.0, "stderr": None, "n": 8, "maximum": 400.0}}
    write("run2", "mme", 0, name="mme [partial: 8 of 2374]", **part)
    write("run2", "pope", 80)
    for others in ([f"a={full}"], []):
        report = build_report([*others, f"b={full.parent / 'run2'}"])
        rows = lines(as_markdown(report))
        assert rows["b"][0] == "400.0<sup>a,b</sup>" and report.columns[0].maximum == 2000
        assert [note.partition(" ")[0] for note in report.footnotes()[:2]] == ["partial:", "of"]
        assert "of 400" in report.footnotes()
        if others:
            assert rows["a"][0] == "1513.5 ± 18.0"  # nobody to be better than


def test_judges_are_named_and_not_ranked_against_each_other(full: Path, write: Write) -> None:
    write("run", "mmvet", 31.2, 0.9, grades={}, metric="MM-Vet score (gpt-4-0613)")
    write("run2", "mmvet", 50, grades={}, metric="MM-Vet score (mine)")
    write("run2", "pope", 50)
    report = build_report([f"a={full}", f"b={full.parent / 'run2'}"])
    text = as_markdown(report)
    assert lines(text)["a"][7] == "31.2<sup>a</sup> ± 0.9" and lines(text)["b"][7] == "50.0<sup>b</sup>"
    assert "<sup>a</sup> MM-Vet score (gpt-4-0613)\n- <sup>b</sup> MM-Vet score (mine)\n" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, r"run2.*is of pope \(version 2\), but .*run.* of version 1; score one of them anew"),
        ({"data_sha256": "1" * 64}, "run2.*its pope holds other questions than that of .*run"),
    ],
)
def test_versions_and_editions_are_not_mixed(changes: Any, message: str, full: Path, write: Write) -> None:
    write("run", "pope", 80, data_sha256="0" * 64)
    with pytest.raises(UserError, match=message):
        build_report([f"a={full}", f"b={write('run2', 'pope', 81, **changes)}"])


def test_two_scores_for_one_cell_are_refused(full: Path) -> None:
    with pytest.raises(UserError, match=r"mme.*: is of mme and goes by 'a', as .* does; name one of them otherwise"):
        build_report([f"a={full}", f"a={full / 'evaluation' / 'mme'}"])


class OnServer(EasyVqa):
    """Like VizWiz's test split."""

    name = "vizwiz"
    server = "send the export in"


def test_a_servers_figure(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BENCHMARKS, "vizwiz", OnServer())
    file = full / "evaluation" / "vizwiz" / "scores.json"
    assert main(["evaluate", "record", "vizwiz", "49.4", "--out", str(file), "--source", "EvalAI, 2 May"]) == 0
    assert "49.40" in capsys.readouterr().out
    text = as_markdown(build_report([f"mine={full}"]))
    assert lines(text)["mine"][8:] == ["49.4<sup>a</sup>", "60.44<sup>a,b</sup> ± 0.28"]  # sqrt(8) * 0.9 / 9 = 0.2828
    assert "<sup>a</sup> from the test server: EvalAI, 2 May\n" in text
    assert "<sup>b</sup> ± without that of VizWiz, which is not known\n" in text
    answers = tmp_path / "predictions.jsonl"
    answers.write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "manifest.json").write_text('{"model": {"model": "runs/x", "kind": "run", "method": "lora"}}')
    assert main(["evaluate", "record", "vizwiz", "49.4", "--answers", str(answers)]) == 0
    shown = capsys.readouterr().out
    assert "runs/x (lora)" in shown and "2 questions" in shown and "recorded 20" in shown
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["total"] == {"value": 0.494, "stderr": None, "n": 2, "maximum": 100.0}
    assert len(content["answers_sha256"]) == 64


@pytest.mark.parametrize(
    ("percent", "source", "message"),
    [
        (101, "x", r"101 is no percentage"),
        (float("nan"), "x", r"nan is no percentage"),
        (0.484, "x", r"0\.484 looks like a share of 1; give percent: 48\.4"),
        (48.4, " ", r"--source: is empty"),
    ],
)
def test_a_servers_figure_must_be_one(percent: float, source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        record_score(OnServer(), percent, source, tmp_path / "scores.json", None)
    assert not (tmp_path / "scores.json").exists()


def test_a_servers_figure_is_not_named_as_json_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not JSON lines; name them s\.json"):
        record_score(OnServer(), 48.4, "x", tmp_path / "s.jsonl", None)
    assert not (tmp_path / "s.jsonl").exists()


def test_only_servers_figures_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="easy_vqa: is scored here, not by a server; use evaluate score"):
        record_score(EasyVqa(), 50, "x", tmp_path / "scores.json", None)
    assert main(["evaluate", "record", "easy_vqa", "50"]) == 1


@pytest.mark.parametrize("width", [200, 120, 80, 40])
def test_any_terminal_shows_all(width: int, full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(build_report([f"mine={full}", str(full)]), console=Console(width=width))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for figure in ("1513.5", "62.6", "54.0", "85.3", "31.2"):
        assert shown.count(figure) == 3
    assert shown.count("± 0.30") == 2 and "no average" not in shown


def test_csv(full: Path) -> None:
    rows = draw_report(build_report([f"mine={full}"]), "csv").splitlines()
    assert rows[0].startswith("label,kind,source,mme,mme_stderr,mmbench,") and rows[0].endswith(",average_stderr,notes")
    assert rows[1].startswith("mine,run,,1513.5,18.0,62.6,0.9")
    assert rows[2].startswith('LoRA r=32 (paper),published,"TeamLoRA (Lin et al., ACL 2025), Table 6",1505.2,,62.8,,')
