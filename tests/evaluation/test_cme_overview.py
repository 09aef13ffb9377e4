"""``evaluate report`` of CME's eleven tasks: columns in Table 2's order, their average, Table 6's nine beside them."""

from __future__ import annotations

from pathlib import Path

from scored_runs import FLAT, make_scores, write_scores

from llava_teamlora.evaluation.paper import ELEVEN, HEADS, NINE
from llava_teamlora.evaluation.report import build_report
from llava_teamlora.evaluation.tables import as_markdown

MODEL = {"kind": "run", "method": "lora", "model": "runs/x"}


def lines(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows}


def test_the_average_of_the_eleven(tmp_path: Path) -> None:
    """(10 * 50 + 61) / 11 = 51; its standard error sqrt(11) * 1 / 11 = 0.30."""
    make_scores(tmp_path / "a", {**FLAT, "nq": 0.61}, MODEL)
    make_scores(tmp_path / "b", {"nq": 0.5}, MODEL)
    text = as_markdown(build_report([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"]))
    rows = lines(text)
    assert rows["answers by"] == [*(HEADS[name] for name in ELEVEN), "Avg."]
    assert rows["a"][8] == "**61.0** ± 1.0" and rows["a"][-1] == "51.00 ± 0.30" and rows["b"][-1] == "-"
    assert "Avg. as in the TeamLoRA paper's Table 2, the mean of CME's eleven tasks\n" in text
    assert "no average for b: OAI-Sum, IMDB," in text
    assert "Table 6" not in text and "published" not in text


def test_a_part_of_a_task_gives_no_average(tmp_path: Path) -> None:
    make_scores(tmp_path / "a", FLAT, MODEL)
    write_scores(tmp_path / "a", "arc", 0.5, MODEL, name="arc [partial: 3 of 9]")
    text = as_markdown(build_report([f"a={tmp_path / 'a'}"]))
    assert lines(text)["a"][-1] == "-" and "no average for a: ARC partial" in text


def test_both_sets_have_averages_of_their_own(tmp_path: Path) -> None:
    make_scores(tmp_path / "a", FLAT, MODEL)
    make_scores(tmp_path / "a", dict.fromkeys(NINE, 0.4), MODEL)
    mme = {"value": 0.4, "stderr": 0.01, "n": 100, "maximum": 2000.0}
    write_scores(tmp_path / "a", "mme", 0.4, MODEL, total=mme)
    make_scores(tmp_path / "b", dict.fromkeys(ELEVEN, 0.3), MODEL)
    text = as_markdown(build_report([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"], published=False))
    rows = lines(text)
    assert rows["answers by"] == [*(HEADS[name] for name in (*NINE,)), "Avg.", *(HEADS[name] for name in ELEVEN), "CME"]
    assert rows["a"][9] == "40.00 ± 0.33" and rows["a"][-1] == "**50.00** ± 0.30"  # sqrt(9) / 9
    assert rows["b"][9] == "-" and rows["b"][-1] == "30.00 ± 0.30"
    assert "no average" not in text  # of what a row has nothing of, nothing is missing
