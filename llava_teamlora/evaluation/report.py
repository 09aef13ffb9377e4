"""``scores.json`` files -> a table: of one benchmark in detail, of several as the paper's Table 6. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.overview import build_overview
from llava_teamlora.evaluation.score_files import ScoreFile, read_scores, refuse_other_edition, told_apart
from llava_teamlora.evaluation.tables import Column, Report, Row, as_csv, as_json, as_markdown, as_unit
from llava_teamlora.evaluation.terminal_table import as_table

_OUT_WIDTH = 160
FALLING = "↓"
"""Ends the name of a measure whose lower figures are the better."""
_FALLING_NOTE = f"{FALLING}: lower is better"


def build_report(files: Sequence[str], *, published: bool = True) -> Report:
    """Read files and folders given as ``PATH`` or ``LABEL=PATH``.

    Args:
        files: see ``score_files.read_scores``.
        published: whether rows of the paper and of LLaVA stand below, where there are several benchmarks.

    Raises:
        UserError: a file is missing, holds no scores, or does not belong beside the others.
    """
    found = read_scores(files)
    return build_overview(found, published) if len({file.benchmark for file in found}) > 1 else _detailed(found)


def _detailed(found: Sequence[ScoreFile]) -> Report:
    """Total, groups and further measures of one benchmark; the baselines below."""
    found = told_apart(found)
    first = found[0]
    for file in found:
        if str(file) != str(first):
            raise UserError(f"{file.path}: is of {file}, but {first.path} of {first}; report them apart")
        refuse_other_edition(file, first)
    cells = _by_column(first.content)
    maxima = {name: cell.get("maximum", 100.0) for name, cell in cells.items()}
    benchmark = BENCHMARKS.get(first.benchmark)
    headline = cells if benchmark is None or benchmark.headline is None else ("total", *benchmark.headline)
    columns = tuple(
        Column(name, name, maxima[name], cell["n"], uncertain=name == "total", headline=name in headline)
        for name, cell in cells.items()
    )
    unit = " in %" if set(maxima.values()) == {100} else ""
    metric, count = first.content["metric"], cells["total"]["n"]
    questions = "" if count is None else f", {count} questions"
    falling = any(name.endswith(FALLING) for name in cells)
    return Report(
        f"{first.content['name']}: {metric}{unit} ± standard error{questions}",
        columns,
        tuple(_row(file.label, file.content, columns, _notes(file, metric)) for file in found),
        tuple(_row(label, scores, columns) for label, scores in first.content["baselines"].items()),
        notes=(_FALLING_NOTE,) if falling else (),
    )


def _notes(file: ScoreFile, metric: str) -> tuple[str, ...]:
    """What sets a file's total apart from the title."""
    server = None if file.server is None else f"from the test server: {file.server}"
    other = None if file.content["metric"] == metric else file.content["metric"]
    return tuple(note for note in (other, server, file.untied) if note is not None)


def _by_column(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {"total": scores["total"], **scores["groups"], **scores["extra"]}


def _row(label: str, scores: Mapping[str, Any], columns: Sequence[Column], notes: tuple[str, ...] = ()) -> Row:
    """A group that the first file lacks has no column, one that this file lacks no cell."""
    found = _by_column(scores)
    cells = (as_unit(found[column.name]) if column.name in found else None for column in columns[1:])
    return Row(label, (as_unit(scores["total"], notes), *cells))


def shortened(report: Report) -> Report:
    """The headline's columns alone, and a line that tells of the others."""
    kept = [place for place, column in enumerate(report.columns) if column.headline]
    hidden = len(report.columns) - len(kept)
    if not hidden:
        return report

    def cut(rows: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in rows)

    columns = tuple(report.columns[place] for place in kept)
    notes = tuple(
        note for note in report.notes if note != _FALLING_NOTE or any(c.name.endswith(FALLING) for c in columns)
    )
    told = f"{hidden} more figure{'s' * (hidden > 1)}: llava-teamlora evaluate report --full, or scores.json"
    return replace(
        report,
        columns=columns,
        runs=cut(report.runs),
        baselines=cut(report.baselines),
        published=cut(report.published),
        notes=(*notes, told),
    )


def draw_report(report: Report, form: str) -> str:
    """As text, for a file: one of ``tables.FORMATS``."""
    if form == "table":
        console = Console(file=io.StringIO(), width=_OUT_WIDTH)
        console.print(as_table(report, _OUT_WIDTH))
        return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]  the StringIO above
    return {"md": as_markdown, "csv": as_csv, "json": as_json}[form](report)


def print_report(report: Report, form: str = "table", console: Console | None = None, *, full: bool = False) -> None:
    """Print in one of ``tables.FORMATS``; a terminal's table is short unless it is to be ``full``."""
    console = console or Console()
    if form == "table":
        console.print(as_table(report if full else shortened(report), console.width))
    else:
        print(draw_report(report, form), end="")
