"""A report before it is drawn, and its forms: a terminal's table, Markdown, CSV and JSON. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llava_teamlora.evaluation.metrics import Z_95

FORMATS = ("table", "md", "csv", "json")
_LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
_PLAIN = "abcdefghijklmnoprstuvwxyz"
_LABEL_WIDTH = 28


@dataclass(frozen=True)
class Cell:
    """One figure, as the official tool shows it.

    Attributes:
        value: in the column's unit.
        stderr: in the same unit; None where it cannot be known.
        notes: footnotes.
        comparable: stands for the same measurement as the column's others, and may be the best of them.
        rank: 1 the best of its block, 2 the second, else 0.
    """

    value: float
    stderr: float | None = None
    notes: tuple[str, ...] = ()
    comparable: bool = True
    rank: int = 0


def as_unit(score: Mapping[str, Any], notes: tuple[str, ...] = (), comparable: bool = True) -> Cell:
    """A ``types.Score`` as JSON, in the official tool's unit; one without ``maximum`` is in percent."""
    maximum = score.get("maximum", 100.0)
    error = None if score["stderr"] is None else score["stderr"] * maximum
    return Cell(score["value"] * maximum, error, notes, comparable)


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
    """One line: a cell a column, None where there is none; ``source`` where others published it."""

    label: str
    cells: tuple[Cell | None, ...]
    source: str = ""


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
    """

    title: str
    columns: tuple[Column, ...]
    runs: tuple[Row, ...]
    baselines: tuple[Row, ...] = ()
    published: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

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


def interval(cell: Cell) -> tuple[float, float] | None:
    """Its 95 % interval, from the normal distribution."""
    return None if cell.stderr is None else (cell.value - Z_95 * cell.stderr, cell.value + Z_95 * cell.stderr)


def _texts(cell: Cell | None, column: Column) -> tuple[str, str]:
    """Value and ``± standard error``."""
    if cell is None:
        return "-", ""
    value = f"{cell.value:.{column.decimals}f}"
    error = f"± {cell.stderr:.{column.decimals}f}" if column.uncertain and cell.stderr is not None else ""
    return value, error


def _mark(note: str, footnotes: list[str], alphabet: str) -> str:
    turns, place = divmod(footnotes.index(note), len(alphabet))
    return alphabet[place] * (turns + 1)


def as_table(report: Report, width: int = 120) -> RenderableType:
    """For a terminal: the standard errors go below their values, then rows become columns, until it fits."""
    below = [*(f"{_mark(n, report.footnotes(), _LETTERS)} {n}" for n in report.footnotes()), *report.notes]
    title = Text(report.title, style="italic")
    return Group(title, *_fitting(report, width), *(Text(line, style="dim") for line in below))


def _fitting(report: Report, width: int) -> Iterator[Table]:
    heads = [[column.head, *column.detail().split(", ")] for column in report.columns]
    lines = [(kind, row.label, row.cells) for kind, rows in report.blocks() for row in rows]
    for stacked in (False, True):
        body = [[_drawn(report, row, i, stacked) for i in range(len(heads))] for _, _, row in lines]
        labels = [label for _, label, _ in lines]
        widths = [max(_width(text) for text in column) for column in zip(*body, strict=True)]
        widths = [max(w, *map(cell_len, head)) for w, head in zip(widths, heads, strict=True)]
        first = min(_LABEL_WIDTH, max(map(cell_len, [*labels, "answers by"])))
        if first + sum(widths) + 3 * len(widths) + 4 <= width:
            yield _upright(report, lines, body, heads)
            return
    yield from _lying(report, lines, heads, width)


def _upright(report: Report, lines: list[Any], body: list[list[Text]], heads: list[list[str]]) -> Table:
    table = Table()
    table.add_column("answers by", overflow="fold")
    for head, *details in heads:
        text = Text(head).append("".join(f"\n{detail}" for detail in details if detail), "dim")
        table.add_column(text, justify="right", no_wrap=True)
    for number, ((kind, label, _), texts) in enumerate(zip(lines, body, strict=True)):
        if number and lines[number - 1][0] != kind:
            table.add_section()
        table.add_row(Text(label), *texts, style="" if kind == "run" else "dim")
    return table


def _lying(report: Report, lines: list[Any], heads: list[list[str]], width: int) -> Iterator[Table]:
    """Columns become rows; as many of the rows at once as fit beside each other."""
    shown = [", ".join(part for part in head if part) for head in heads]
    first = max(map(cell_len, shown))
    cell_width = max(_width(_drawn(report, row, i, False)) for _, _, row in lines for i in range(len(heads)))
    each = max(cell_width, 14)
    at_once = max(1, (width - first - 4) // (each + 3))
    for start in range(0, len(lines), at_once):
        table = Table()
        table.add_column("", no_wrap=True)
        for kind, label, _ in lines[start : start + at_once]:
            text = Text(label, style="" if kind == "run" else "dim")
            table.add_column(text, justify="right", overflow="fold", min_width=cell_width, max_width=each)
        for place, head in enumerate(shown):
            cells = [_drawn(report, row, place, False) for _, _, row in lines[start : start + at_once]]
            table.add_row(Text(head), *cells)
        yield table


def _drawn(report: Report, cells: Sequence[Cell | None], place: int, stacked: bool) -> Text:
    cell = cells[place]
    value, error = _texts(cell, report.columns[place])
    text = Text(value, style=("", "bold", "underline")[cell.rank if cell else 0])
    plain = Text().append_text(text)
    for note in cell.notes if cell else ():
        plain.append(_mark(note, report.footnotes(), _LETTERS))
    return plain.append(("\n" if stacked else " ") + error if error else "")


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def as_markdown(report: Report) -> str:
    """For a page: the best bold, the second best underlined, footnotes below."""
    footnotes = report.footnotes()

    def cell_text(cell: Cell | None, column: Column) -> str:
        value, error = _texts(cell, column)
        rank = cell.rank if cell else 0
        marks = [_mark(note, footnotes, _PLAIN) for note in (cell.notes if cell else ())]
        value = ("{}", "**{}**", "<u>{}</u>")[rank].format(value) + (f"<sup>{','.join(marks)}</sup>" if marks else "")
        return f"{value} {error}" if error else value

    heads = [column.head + (f" ({column.detail()})" if column.detail() else "") for column in report.columns]
    lines = [f"{report.title}\n", _piped(["answers by", *heads]), "|---" + "|---:" * len(heads) + "|"]
    for _, rows in report.blocks():
        for row in rows:
            cells = [cell_text(cell, column) for cell, column in zip(row.cells, report.columns, strict=True)]
            lines.append(_piped([row.label, *cells]))
    below = [f"- <sup>{_mark(note, footnotes, _PLAIN)}</sup> {note}" for note in footnotes]
    below += [f"- {note}" for note in report.notes]
    return "\n".join([*lines, *([""] if below else []), *below]) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def as_csv(report: Report) -> str:
    """For a spreadsheet: full precision, a standard error beside every value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [part for column in report.columns for part in (column.name, f"{column.name}_stderr")]
    writer.writerow(["label", "kind", "source", *names, "notes"])
    for kind, rows in report.blocks():
        for row in rows:
            figures = [(None, None) if cell is None else (cell.value, cell.stderr) for cell in row.cells]
            notes = [
                f"{column.name}: {note}"
                for column, cell in zip(report.columns, row.cells, strict=True)
                for note in (cell.notes if cell else ())
            ]
            writer.writerow([row.label, kind, row.source, *(x for pair in figures for x in pair), "; ".join(notes)])
    return file.getvalue()


def as_json(report: Report) -> str:
    """For programs: lists in the columns' order, null where there is no figure."""

    def line(row: Row) -> dict[str, Any]:
        return {
            "label": row.label,
            **({"source": row.source} if row.source else {}),
            "values": [cell and cell.value for cell in row.cells],
            "stderrs": [cell and cell.stderr for cell in row.cells],
            "intervals": [cell and interval(cell) for cell in row.cells],
            "notes": [list(cell.notes) if cell else [] for cell in row.cells],
        }

    content = {
        "title": report.title,
        "columns": [column.name for column in report.columns],
        "counts": [column.count for column in report.columns],
        "maxima": [column.maximum for column in report.columns],
        "runs": [line(row) for row in report.runs],
        "baselines": [line(row) for row in report.baselines],
        "published": [line(row) for row in report.published],
        "notes": list(report.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
