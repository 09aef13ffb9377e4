"""A report -> PNG: one panel a column, a dot a row, 95 % intervals. Imports no torch."""

from __future__ import annotations

import textwrap
from typing import Any

from llava_teamlora.evaluation.drawing import as_png, new_figure, plain
from llava_teamlora.evaluation.tables import Report, interval

_ACROSS = 5
_STYLES: dict[str, dict[str, Any]] = {
    "run": {"color": "tab:blue", "marker": "o"},
    "baseline": {"color": "0.55", "marker": "s", "markerfacecolor": "none"},
    "published": {"color": "0.35", "marker": "D", "markerfacecolor": "none"},
}


def draw_plot(report: Report) -> bytes:
    """Draw it.

    Returns:
        A PNG file's content.

    Raises:
        UserError: matplotlib is not installed.
    """
    rows = [(kind, row) for kind, block in report.blocks() for row in block]
    places = [i for i in range(len(report.columns)) if any(row.cells[i] for _, row in rows)]
    across = min(_ACROSS, len(places))
    down = -(-len(places) // across)
    figure = new_figure(1.5 + 2.3 * across, 0.6 + down * (0.8 + 0.24 * len(rows)), "--plot")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).flat
    for panel, place in zip(panels, places, strict=False):
        _draw_panel(panel, report, rows, place)
    for panel in figure.axes[len(places) :]:
        panel.set_visible(False)
    figure.axes[0].set_yticks(range(len(rows)), [_shortened(row.label) for _, row in rows])
    figure.axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(_wrapped(report.title.replace("± standard error", "with 95 % intervals"), across), fontsize=9)
    unlike = [
        f"open: {report.columns[place].head} of {row.label}, {', '.join(cell.notes)}"
        for _, row in rows
        for place, cell in enumerate(row.cells)
        if cell is not None and not cell.comparable
    ]
    if unlike:
        figure.supxlabel("\n".join(_wrapped(line, across) for line in unlike), fontsize=8)
    return as_png(figure)


def _draw_panel(panel: Any, report: Report, rows: list[Any], place: int) -> None:
    for height, (kind, row) in enumerate(rows):
        cell = row.cells[place]
        if cell is None:
            continue
        ends = interval(cell)
        if ends is not None:
            panel.plot(ends, (height, height), color=_STYLES[kind]["color"], linewidth=1.2)
        style = _STYLES[kind] if cell.comparable else {**_STYLES[kind], "markerfacecolor": "none"}
        panel.plot([cell.value], [height], linestyle="", markersize=5, **style)
    panel.set_title(report.columns[place].head, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.margins(x=0.12)
    panel.grid(axis="x", alpha=0.3)


def _shortened(label: str, longest: int = 32) -> str:
    """The end of a long path tells more than its beginning."""
    return plain(label if len(label) <= longest else "…" + label[1 - longest :])


def _wrapped(title: str, across: int) -> str:
    return "\n".join(textwrap.wrap(plain(title), width=26 * across + 14))
