"""A numeric axis of a sweep -> a picture: what the scores do along it, a line for each value of the other axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from llava_teamlora.evaluation.drawing import as_png, draw_line, new_figure
from llava_teamlora.evaluation.overview import AVERAGE
from llava_teamlora.evaluation.paper import HEADS
from llava_teamlora.evaluation.tables import Cell
from llava_teamlora.sweep.grid import SEED, label_of
from llava_teamlora.sweep.results import Results

_ACROSS = 4
Points = list[tuple[float, Cell]]


def numeric_axes(results: Results) -> list[str]:
    """Axes other than the seed whose values are all numbers, two at least."""
    values: dict[str, set[Any]] = defaultdict(set)
    for group in results.groups:
        for axis, value in group.axes.items():
            values[axis].add(_number(value))
    return [axis for axis, found in values.items() if axis != SEED and None not in found and len(found) > 1]


def _number(value: Any) -> float | None:
    """YAML reads 3e-4 as text, since it has no point."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def lines(results: Results, axis: str, benchmark: str) -> dict[str, Points]:
    """Points along a numeric axis, from left to right, by what else tells the groups apart."""
    found: dict[str, Points] = defaultdict(list)
    for group in results.groups:
        x, cell = _number(group.axes.get(axis)), group.cell(benchmark)
        if x is not None and cell is not None:
            found[label_of(group.axes, axis)].append((x, cell))
    return {label: sorted(points, key=lambda point: point[0]) for label, points in found.items()}


def draw(results: Results, axis: str) -> bytes | None:
    """Draw a panel a benchmark, the average first, with 95 % intervals over seeds.

    Returns:
        A PNG file's content; None where nothing has been scored yet.

    Raises:
        UserError: matplotlib is not installed.
    """
    columns = sorted(results.benchmarks, key=lambda name: name != AVERAGE)
    columns = [name for name in columns if lines(results, axis, name)]
    if not columns:
        return None
    across = min(_ACROSS, len(columns))
    down = -(-len(columns) // across)
    figure = new_figure(0.6 + 3.2 * across, 0.8 + 2.6 * down, "a sweep's pictures")
    panels = figure.subplots(down, across, squeeze=False).flat
    for panel, column in zip(panels, columns, strict=False):
        _panel(panel, lines(results, axis, column), axis, column)
    for panel in figure.axes[len(columns) :]:
        panel.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), across + 1), fontsize=8)
    return as_png(figure)


def _panel(panel: Any, found: dict[str, Points], axis: str, column: str) -> None:
    ticks = sorted({x for points in found.values() for x, _ in points})
    for number, (label, points) in enumerate(found.items()):
        draw_line(panel, number, label, points)
    if _geometric(ticks):
        panel.set_xscale("log")
        panel.minorticks_off()
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_title(HEADS.get(column, column), fontsize=9)
    panel.set_xlabel(axis, fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)


def _geometric(ticks: Sequence[float]) -> bool:
    """Whether the values grow by factors, as 8, 16, 32 and 1e-4, 1e-3 do, and not by steps."""
    if len(ticks) < 3 or ticks[0] <= 0:
        return False
    factors = [b / a for a, b in zip(ticks, ticks[1:], strict=False)]
    return max(factors) / min(factors) < 1.5
