"""``report:`` of a grid: tables that other rooms draw up of a sweep's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.sweep.evaluation import Evaluation
from llava_teamlora.sweep.grid import Grid

_ALL, _FIGURES = "all", "figures"
_CME = ("2", "3", "4", "5", _FIGURES, _ALL)
"""Tables of the paper, its Figure 3, or whatever the cells allow."""


def check_reports(grid: Grid, evaluation: Evaluation | None) -> None:
    """See that what is asked for can be drawn up.

    Raises:
        UserError: it cannot.
    """
    for name, value in grid.report.items():
        if name not in REPORTS:
            raise UserError(f"{grid.path}, report: unknown key {name!r}{nearest(name, REPORTS)}; there is cme")
        if str(value) not in _CME:
            raise UserError(f"{grid.path}, report, cme: {value!r} is not one of {', '.join(_CME)}")
        missing = [task for task in ELEVEN if evaluation is None or task not in evaluation.benchmarks]
        if missing:
            raise UserError(f"{grid.path}, report, cme: needs all eleven tasks; evaluate {', '.join(missing)} too")


def write_reports(grid: Grid, console: Console) -> None:
    """Draw up what is asked for, of the cells that are done; what cannot be drawn up is told."""
    for name, value in grid.report.items():
        try:
            for path in REPORTS[name](grid.out, str(value), console):
                console.print(f"written: {path}", markup=False)
        except UserError as error:
            console.print(f"no report {name}: {error}", style="yellow", markup=False)


def _cme(out: Path, which: str, console: Console) -> list[Path]:
    from llava_teamlora.cme.plots import draw_figures
    from llava_teamlora.cme.report import build_tables, notes_of, write_tables
    from llava_teamlora.evaluation.report import print_report

    tables = build_tables([str(out)], _ALL if which == _FIGURES else which)
    for report in tables.reports.values() if which != _FIGURES else ():
        print_report(report, console=console)
    for note in notes_of(tables) if which != _FIGURES else ():
        console.print(note, style="dim", markup=False)
    written = write_tables(tables, out, ("md", "csv", "json"))
    if which in (_FIGURES, _ALL):
        figures, left_out = draw_figures(tables.entries, out)
        written += figures
        for note in left_out:
            console.print(note, style="dim", markup=False)
    return written


REPORTS: dict[str, Callable[[Path, str, Console], list[Path]]] = {"cme": _cme}
