"""A report -> a table for a terminal. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llava_teamlora.evaluation.tables import Report, Row, cell_texts, facts_of, footnote_mark

_LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
_LABEL_WIDTH = 28

Line = tuple[str, Row]
"""Kind and row."""


def as_table(report: Report, width: int = 120) -> RenderableType:
    """For a terminal: the standard errors go below their values, then rows become columns, until it fits."""
    below = [*(f"{footnote_mark(n, report.footnotes(), _LETTERS)} {n}" for n in report.footnotes()), *report.notes]
    title = Text(report.title, style="italic")
    return Group(title, *_fitting(report, width), *(Text(line, style="dim") for line in below))


def _fitting(report: Report, width: int) -> Iterator[Table]:
    heads = [[column.head, *column.detail().split(", ")] for column in report.columns]
    lines = [(kind, row) for kind, rows in report.blocks() for row in rows]
    facts = [[head, *(facts_of(row, report)[i] for _, row in lines)] for i, head in enumerate(report.facts)]
    beside = sum(max(map(cell_len, column)) + 3 for column in facts)
    for stacked in (False, True):
        body = [[_drawn(report, row, i, stacked) for i in range(len(heads))] for _, row in lines]
        widths = [max(_width(text) for text in column) for column in zip(*body, strict=True)]
        widths = [max(w, *map(cell_len, head)) for w, head in zip(widths, heads, strict=True)]
        first = min(_LABEL_WIDTH, max(map(cell_len, [*(row.label for _, row in lines), report.head])))
        if first + beside + sum(widths) + 3 * len(widths) + 4 <= width:
            yield _upright(report, lines, body, heads)
            return
    yield from _lying(report, lines, heads, width)


def _upright(report: Report, lines: list[Line], body: list[list[Text]], heads: list[list[str]]) -> Table:
    table = Table()
    table.add_column(report.head, overflow="fold")
    for head in report.facts:
        table.add_column(head, no_wrap=True)
    for head, *details in heads:
        text = Text(head).append("".join(f"\n{detail}" for detail in details if detail), "dim")
        table.add_column(text, justify="right", no_wrap=True)
    for number, ((kind, row), texts) in enumerate(zip(lines, body, strict=True)):
        if number and lines[number - 1][0] != kind:
            table.add_section()
        facts = map(Text, facts_of(row, report))
        table.add_row(Text(row.label), *facts, *texts, style="" if kind == "run" else "dim")
    return table


def _lying(report: Report, lines: list[Line], heads: list[list[str]], width: int) -> Iterator[Table]:
    """Columns become rows; as many of the rows at once as fit beside each other."""
    shown = [", ".join(part for part in head if part) for head in heads]
    first = max(map(cell_len, [*shown, *report.facts]))
    cell_width = max(_width(_drawn(report, row, i, False)) for _, row in lines for i in range(len(heads)))
    each = max(cell_width, 14)
    at_once = max(1, (width - first - 4) // (each + 3))
    for start in range(0, len(lines), at_once):
        table, some = Table(), lines[start : start + at_once]
        table.add_column("", no_wrap=True)
        for kind, row in some:
            text = Text(row.label, style="" if kind == "run" else "dim")
            table.add_column(text, justify="right", overflow="fold", min_width=cell_width, max_width=each)
        for place, head in enumerate(report.facts):
            table.add_row(Text(head), *(Text(facts_of(row, report)[place]) for _, row in some))
        for place, head in enumerate(shown):
            table.add_row(Text(head), *(_drawn(report, row, place, False) for _, row in some))
        yield table


def _drawn(report: Report, row: Row, place: int, stacked: bool) -> Text:
    cell = row.cells[place]
    value, error = cell_texts(cell, report.columns[place], report.intervals)
    text = Text(value, style=("", "bold", "underline")[cell.rank if cell else 0])
    plain = Text().append_text(text)
    for note in cell.notes if cell else ():
        plain.append(footnote_mark(note, report.footnotes(), _LETTERS))
    return plain.append(("\n" if stacked else " ") + error if error else "")


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))
