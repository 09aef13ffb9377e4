"""What a bench found -> PNG: dots with their quartiles, or lines over the number of experts. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from llava_teamlora.bench.output import Found, Row, blocks
from llava_teamlora.errors import UserError

# Okabe and Ito's colours, told apart by the colour-blind too.
_COLORS = ("#000000", "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#F0E442", "#009E73", "#4d4d4d")
_MARKERS = "osD^vP*X<>"


def draw(found: Found) -> bytes:
    """Draw a panel for each dtype (and whatever else parts the rows): dots, or lines over k where there are several.

    Returns:
        A PNG file's content.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("the picture needs matplotlib; pip install matplotlib") from error
    panels = {
        name: drawn
        for name, rows in blocks(found).items()
        if (drawn := [row for row in rows if row.figures.get(found.plotted) is not None])
    }
    names = list(dict.fromkeys(row.variant for rows in panels.values() for row in rows))
    lines = len({row.k for row in found.rows}) > 2  # a plain LoRA has 1 always
    across = max(1, len(panels))
    size = (1.6 + 3.6 * across, 4.2 if lines else 1.2 + 0.3 * max(map(len, panels.values()), default=1))
    figure = Figure(figsize=size, layout="constrained")  # no pyplot: it would keep figures and ask for a display
    for panel, (name, rows) in zip(figure.subplots(1, across, squeeze=False).flat, panels.items(), strict=False):
        (draw_lines if lines else _draw_dots)(panel, rows, names, found.plotted)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    if lines and panels:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(found.title, fontsize=9, wrap=True)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _draw_dots(panel: Any, rows: Sequence[Row], names: Sequence[str], plotted: str) -> None:
    for height, row in enumerate(rows):
        _dot(panel, row, height, plotted, _style(names, row.variant))
    panel.axvline(1.0, color="0.5", linewidth=1, linestyle=":")
    several = len({row.k for row in rows}) > 2
    panel.set_yticks(range(len(rows)), [row.variant + (f", k = {row.k}" if several else "") for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlabel(plotted, fontsize=8)


def _dot(panel: Any, row: Row, height: int, plotted: str, style: dict[str, Any]) -> None:
    if plotted == "ratio" and row.figures.get("q1") is not None:
        panel.plot((row.figures["q1"], row.figures["q3"]), (height, height), color=style["color"], linewidth=1.5)
    panel.plot([row.figures[plotted]], [height], linestyle="", markersize=5, **style)


def draw_lines(panel: Any, rows: Sequence[Row], names: Sequence[str], plotted: str) -> None:
    ticks = sorted({row.k for row in rows})
    for name in names:
        own = sorted((row for row in rows if row.variant == name), key=lambda row: row.k)
        if not own:
            continue
        values, style = [row.figures[plotted] for row in own], _style(names, name)
        if len(own) == 1:
            panel.axhline(values[0], label=name, linewidth=1, linestyle="--", color=style["color"])
            continue
        ends = [(row.figures.get("q1"), row.figures.get("q3")) for row in own]
        bars = [(v - low, high - v) if low is not None else (0, 0) for v, (low, high) in zip(values, ends, strict=True)]
        drawn = [max(0.0, low) for low, _ in bars], [max(0.0, high) for _, high in bars]
        shown = {"yerr": drawn, "capsize": 2} if plotted == "ratio" else {}
        panel.errorbar([row.k for row in own], values, label=name, linewidth=1.2, markersize=4, **shown, **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, map(str, ticks))
    panel.set_xlabel("experts", fontsize=8)
    panel.set_ylabel(plotted, fontsize=8)


def _style(names: Sequence[str], name: str) -> dict[str, Any]:
    place = names.index(name)
    return {"color": _COLORS[place % len(_COLORS)], "marker": _MARKERS[place % len(_MARKERS)]}
