"""A report before it is drawn, and its forms for files: Markdown, CSV and JSON. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from llava_teamlora.evaluation.metrics import Z_95, t_quantile

FORMATS = ("table", "md", "csv", "json")
_PLAIN = "abcdefghijklmnoprstuvwxyz"


@dataclass(frozen=True)
class Cell:
    """One figure, as the official tool shows it.

    Attributes:
        value: in the column's unit.
        stderr: in the same unit; None where it cannot be known.
        notes: footnotes.
        comparable: stands for the same measurement as the column's others, and may be the best of them.
        rank: 1 the best of its block, 2 the second, else 0.
        degrees: of freedom of ``stderr``, where it is estimated from a few values; None for a normal distribution.
    """

    value: float
    stderr: float | None = None
    notes: tuple[str, ...] = ()
    comparable: bool = True
    rank: int = 0
    degrees: int | None = None


def as_unit(score: Mapping[str, Any], notes: tuple[str, ...] = (), comparable: bool = True) -> Cell:
    """A ``types.Score`` as JSON, in the official tool's unit; one without ``maximum`` is in percent."""
    maximum = score.get("maximum", 100.0)
    error = None if score["stderr"] is None else score["stderr"] * maximum
    return Cell(score["value"] * maximum, error, notes, comparable)


def mean_cell(cells: Sequence[Cell], runs: int) -> Cell:
    """The mean over runs of different seeds; its standard error is that of the seeds, with few degrees of freedom.

    Args:
        cells: one a run, at least one.
        runs: how many there are; where some lack a cell the mean says so, and is not ranked.
    """
    if runs == 1:
        return cells[0]
    values, count = [cell.value for cell in cells], len(cells)
    error = stdev(values) / math.sqrt(count) if count > 1 else None
    notes = tuple(dict.fromkeys(note for cell in cells for note in cell.notes))
    if count < runs:
        notes += (f"{count} of {runs} seeds",)
    comparable = count == runs and all(cell.comparable for cell in cells)
    return Cell(fmean(values), error, notes, comparable, degrees=count - 1)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in JSON and CSV.
        head: above the column.
        maximum: a perfect score.
        count: questions; None where rows differ or nobody knows.
        decimals: shown.
        uncertain: whether the standard errors are shown (they are in JSON and CSV anyway).
        headline: stays in a short table.
    """

    name: str
    head: str
    maximum: float = 100.0
    count: int | None = None
    decimals: int = 2
    uncertain: bool = True
    headline: bool = True

    def detail(self) -> str:
        """``n = 2374, of 2000``; empty where rows differ."""
        if self.count is None:
            return ""
        return f"n = {self.count}" + ("" if self.maximum == 100 else f", of {self.maximum:g}")


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        label: what it is of.
        cells: one a column, None where there is none.
        source: where others published it.
        facts: what is known of it in words, one for each of the report's ``facts`` or for the first of them.
    """

    label: str
    cells: tuple[Cell | None, ...]
    source: str = ""
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A table.

    Attributes:
        title: above it.
        columns: from left to right.
        runs: what was measured here.
        baselines: rows that no model made.
        published: rows of others.
        notes: below it.
        head: above the labels.
        facts: above the rows' facts, which stand between label and cells.
        intervals: ± is half of a 95 % interval instead of one standard error.
    """

    title: str
    columns: tuple[Column, ...]
    runs: tuple[Row, ...]
    baselines: tuple[Row, ...] = ()
    published: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    head: str = "answers by"
    facts: tuple[str, ...] = ()
    intervals: bool = False

    def blocks(self) -> list[tuple[str, tuple[Row, ...]]]:
        """Kind and rows of what is there."""
        found = (("run", self.runs), ("baseline", self.baselines), ("published", self.published))
        return [(kind, rows) for kind, rows in found if rows]

    def footnotes(self) -> list[str]:
        """Of all cells, in the order of their first appearance; a mark is a place in this list."""
        cells = (cell for _, rows in self.blocks() for row in rows for cell in row.cells if cell)
        return list(dict.fromkeys(note for cell in cells for note in cell.notes))


def ranked(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[Row, ...]:
    """Mark each column's best and second best, as the reader sees the figures: equal ones share a rank.

    Two equal best leave no second place; the second of two rows is not worth a mark.
    """
    marks: dict[tuple[int, int], int] = {}
    for place, column in enumerate(columns):
        cells = {index: row.cells[place] for index, row in enumerate(rows)}
        shown = {i: round(cell.value, column.decimals) for i, cell in cells.items() if cell and cell.comparable}
        order = sorted(shown.values(), reverse=True)
        for index, value in shown.items():
            rank = order.index(value) + 1
            marks[index, place] = rank if rank < min(3, len(order)) else 0
    return tuple(
        replace(
            row,
            cells=tuple(cell and replace(cell, rank=marks.get((index, i), 0)) for i, cell in enumerate(row.cells)),
        )
        for index, row in enumerate(rows)
    )


def half_width(cell: Cell) -> float | None:
    """Half of its 95 % interval: from the normal distribution, or Student's for a few values."""
    if cell.stderr is None:
        return None
    return cell.stderr * (Z_95 if cell.degrees is None else t_quantile(0.95, cell.degrees))


def interval(cell: Cell) -> tuple[float, float] | None:
    """Its 95 % interval."""
    half = half_width(cell)
    return None if half is None else (cell.value - half, cell.value + half)


def cell_texts(cell: Cell | None, column: Column, intervals: bool) -> tuple[str, str]:
    """Value and ``± spread``; see ``Report.intervals``."""
    if cell is None:
        return "-", ""
    value = f"{cell.value:.{column.decimals}f}"
    spread = half_width(cell) if intervals else cell.stderr
    return value, f"± {spread:.{column.decimals}f}" if column.uncertain and spread is not None else ""


def facts_of(row: Row, report: Report) -> tuple[str, ...]:
    """One a head; those that a row does not have are empty."""
    return row.facts + ("",) * (len(report.facts) - len(row.facts))


def footnote_mark(note: str, footnotes: list[str], alphabet: str) -> str:
    """Its letter; doubled in the second round of the alphabet, and so on."""
    turns, place = divmod(footnotes.index(note), len(alphabet))
    return alphabet[place] * (turns + 1)


def as_markdown(report: Report) -> str:
    """For a page: the best bold, the second best underlined, footnotes below."""
    footnotes = report.footnotes()

    def cell_text(cell: Cell | None, column: Column) -> str:
        value, error = cell_texts(cell, column, report.intervals)
        rank = cell.rank if cell else 0
        marks = [footnote_mark(note, footnotes, _PLAIN) for note in (cell.notes if cell else ())]
        value = ("{}", "**{}**", "<u>{}</u>")[rank].format(value) + (f"<sup>{','.join(marks)}</sup>" if marks else "")
        return f"{value} {error}" if error else value

    heads = [column.head + (f" ({column.detail()})" if column.detail() else "") for column in report.columns]
    rule = "|---" * (1 + len(report.facts)) + "|---:" * len(heads) + "|"
    lines = [f"{report.title}\n", _piped([report.head, *report.facts, *heads]), rule]
    for _, rows in report.blocks():
        for row in rows:
            cells = [cell_text(cell, column) for cell, column in zip(row.cells, report.columns, strict=True)]
            lines.append(_piped([row.label, *facts_of(row, report), *cells]))
    below = [f"- <sup>{footnote_mark(note, footnotes, _PLAIN)}</sup> {note}" for note in footnotes]
    below += [f"- {note}" for note in report.notes]
    return "\n".join([*lines, *([""] if below else []), *below]) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def as_csv(report: Report) -> str:
    """For a spreadsheet: full precision, a standard error beside every value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [part for column in report.columns for part in (column.name, f"{column.name}_stderr")]
    writer.writerow(["label", "kind", "source", *report.facts, *names, "notes"])
    for kind, rows in report.blocks():
        for row in rows:
            figures = [(None, None) if cell is None else (cell.value, cell.stderr) for cell in row.cells]
            notes = [
                f"{column.name}: {note}"
                for column, cell in zip(report.columns, row.cells, strict=True)
                for note in (cell.notes if cell else ())
            ]
            flat = (x for pair in figures for x in pair)
            writer.writerow([row.label, kind, row.source, *facts_of(row, report), *flat, "; ".join(notes)])
    return file.getvalue()


def as_json(report: Report) -> str:
    """For programs."""
    return json.dumps(as_content(report), indent=2, ensure_ascii=False) + "\n"


def as_content(report: Report) -> dict[str, Any]:
    """As plain types: lists in the columns' order, null where there is no figure."""

    def line(row: Row) -> dict[str, Any]:
        return {
            "label": row.label,
            **({"source": row.source} if row.source else {}),
            **({"facts": dict(zip(report.facts, row.facts, strict=False))} if row.facts else {}),
            "values": [cell and cell.value for cell in row.cells],
            "stderrs": [cell and cell.stderr for cell in row.cells],
            "intervals": [cell and interval(cell) for cell in row.cells],
            "notes": [list(cell.notes) if cell else [] for cell in row.cells],
        }

    return {
        "title": report.title,
        "columns": [column.name for column in report.columns],
        "counts": [column.count for column in report.columns],
        "maxima": [column.maximum for column in report.columns],
        "runs": [line(row) for row in report.runs],
        "baselines": [line(row) for row in report.baselines],
        "published": [line(row) for row in report.published],
        "notes": list(report.notes),
    }
