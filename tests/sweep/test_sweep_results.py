"""A sweep's table and pictures, by figures worked out by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llava_teamlora.evaluation.report import draw_report
from llava_teamlora.evaluation.tables import half_width
from llava_teamlora.sweep.board import Board, clock, time_left
from llava_teamlora.sweep.jobs import Job
from llava_teamlora.sweep.plots import _geometric, draw, lines, numeric_axes
from llava_teamlora.sweep.progress import progress
from llava_teamlora.sweep.results import Group, Results, make_table
from llava_teamlora.sweep.state import Standing


def group(label: str, axes: dict[str, Any], pope: tuple[float, ...], of: int | None = None) -> Group:
    values = {"pope": pope, "trainable_parameters": (1000.0,) * len(pope)} if pope else {}
    return Group(label, False, axes, tuple(f"{label}{i}" for i in range(len(pope))), of or len(pope), values)


def test_intervals_over_seeds() -> None:
    # 40 and 44: mean 42, s = sqrt(8) = 2.828, standard error 2, t(0.975, 1) = 12.706: half = 25.4.
    cell = group("a", {}, (40.0, 44.0)).cell("pope")
    assert cell is not None and cell.value == 42 and half_width(cell) == pytest.approx(25.412, abs=1e-3)
    one = group("a", {}, (40.0,)).cell("pope")
    assert one is not None and half_width(one) is None
    assert group("a", {}, ()).cell("pope") is None


def test_the_table() -> None:
    groups = (group("a", {}, (40.0, 44.0)), group("b", {}, (50.0,), of=2), group("c", {}, (), of=1))
    report = make_table(Results(("pope",), groups, ("pope: partial: 3 of 8",)), "Sweep")
    text = draw_report(report, "md")
    assert "| a | 2/2 | 1,000 | - | - | 42.0 ± 25.4 |" in text
    assert "| b | 1/2 | 1,000 | - | - | **50.0** |" in text
    assert "| c | 0/1 | - | - | - | - |" in text
    assert "- ± is half of a 95 % t interval over the seeds" in text and "- pope: partial: 3 of 8" in text


def test_lines_along_a_numeric_axis() -> None:
    groups = tuple(
        group(f"{method}, r={r}", {"label": method, "r": r}, (score,))
        for method, r, score in (("A", "16", 3.0), ("A", "8", 2.0), ("B", "8", 1.0))
    )
    results = Results(("pope",), groups, ())
    assert numeric_axes(results) == ["r"]
    found = {label: [(x, cell.value) for x, cell in points] for label, points in lines(results, "r", "pope").items()}
    assert found == {"A": [(8.0, 2.0), (16.0, 3.0)], "B": [(8.0, 1.0)]}
    picture = draw(results, "r")
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert draw(Results((), groups, ()), "r") is None


def test_axes_that_are_no_numbers() -> None:
    groups = tuple(group(str(i), {"seed": i, "packing": bool(i), "lr": f"{i}e-3"}, (1.0,)) for i in range(2))
    assert numeric_axes(Results(("pope",), groups, ())) == ["lr"]
    assert _geometric([8, 16, 32]) and _geometric([1e-4, 1e-3, 1e-2])
    assert not _geometric([10, 20, 30, 100]) and not _geometric([0, 1, 2])


def test_what_is_left() -> None:
    def standing(status: str, seconds: float) -> Standing:
        return Standing(Job("a", "a", {}, {}, Path(), "", ("train",), {}), status, seconds)

    # Two done in 10 and 30 s: 20 s each. One to come, one that has run for 5 s: 35 s, by two at once.
    found = [standing("done", 10), standing("done", 30), standing("waiting", 0), standing("training", 0)]
    assert time_left(found, {}, 2) == 20 and time_left(found[2:], {}, 1) is None
    assert clock(3661) == "1:01:01" and clock(59.7) == "1:00"


def test_progress_is_read_from_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("\n== now train\n 1/64 [00:01<01:00]\r 12/64 [00:03<00:20]\n{'loss': '1.9321', 'epoch': 0.2}\n")
    assert progress(log) == "12/64, loss 1.932"
    with log.open("a") as file:
        file.write("{'loss': '1e")  # just being written
    assert progress(log) == "12/64, loss 1.932"
    with log.open("a") as file:
        file.write("-05'}\n")
    assert progress(log) == "12/64, loss 1e-05"
    with log.open("a") as file:
        file.write("\n== now evaluate\n")
    assert progress(log) == "" and progress(tmp_path / "none") == ""
    with log.open("a") as file:
        file.write("pope: 40/90, 227.3/s, 0:00:00 gone\n")
    assert progress(log) == "40/90"


def test_of_many_cells_the_running_and_failed_ones_are_shown() -> None:
    statuses = ["done"] * 20 + ["training", "failed"] + ["waiting"] * 20
    job = Job("", "", {}, {}, Path(), "", ("train",), {})
    standings = [Standing(replace(job, name=f"cell{i}"), status) for i, status in enumerate(statuses)]
    console = Console(file=io.StringIO(), width=100)
    console.print(Board(console, standings, 1)._table({"cell20": 75.0}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "cell20 training 1:15" in " ".join(shown.split()) and "cell21" in shown
    assert "… and 18 more" in shown and "20 of 42 done, 1 running, 1 failed" in shown  # 24 of 42 have a line
