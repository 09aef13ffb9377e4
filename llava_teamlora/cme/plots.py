"""Rows -> the paper's Figure 3: the average over the number of experts, and over the scale of the data.

A line is what differs in nothing but the axis (and the seed). Bars are 95 % intervals. Imports no torch.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_teamlora.cme.rows import Entry, differences, method_name, short
from llava_teamlora.evaluation.drawing import draw_line, new_figure, plain
from llava_teamlora.evaluation.overview import AVERAGE
from llava_teamlora.evaluation.tables import Cell
from llava_teamlora.files import write_atomically

FORMS = ("png", "svg")
_LEAST = 2
"""Points that make a line worth drawing."""


@dataclass(frozen=True)
class Axis:
    """What a figure is over.

    Attributes:
        figure: its name in the paper.
        file: name of the files, without ending.
        label: below it.
        of: a row's place on it; None where it has none.
        free: settings that it changes.
        doubling: whether its steps are factors.
    """

    figure: str
    file: str
    label: str
    of: Callable[[Entry], float | None]
    free: frozenset[str]
    doubling: bool = False


AXES = (
    Axis(
        "3a", "figure3a_experts", "number of experts k", lambda entry: entry.experts, frozenset(["num_experts"]), True
    ),
    Axis(
        "3b",
        "figure3b_scale",
        "training data, % of the mix",
        lambda entry: entry.first.scale,
        frozenset(["data", "data scale, %"]),
    ),
)
Lines = Mapping[str, Sequence[tuple[float, Cell]]]


def draw_figures(entries: Sequence[Entry], out: Path) -> tuple[list[Path], list[str]]:
    """Draw what there is to draw, as PNG and as SVG.

    Args:
        entries: rows.
        out: folder.

    Returns:
        The files written, and why a figure was not drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    written, left_out = [], []
    for axis in AXES:
        lines = lines_over(axis, entries)
        if not lines:
            why = f"no two rows with an average of all eleven tasks differ in the {axis.label} alone"
            left_out.append(f"no figure {axis.figure}: {why}")
            continue
        for form in FORMS:
            path = out / f"{axis.file}.{form}"
            write_atomically(path, _draw(axis, lines, entries[0].first.base, form))
            written.append(path)
    return written, left_out


def lines_over(axis: Axis, entries: Sequence[Entry]) -> Lines:
    """Points by line, each in the axis' order; a line is named by its method and what sets it apart from its others."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if axis.of(entry) is not None and AVERAGE in entry.cells():
            fixed = {name: value for name, value in entry.first.settings().items() if name not in axis.free}
            fixed["mix"] = _mix(axis, entry)
            groups[json.dumps(fixed, sort_keys=True, default=str)].append(entry)
    found = [group for group in groups.values() if len(group) >= _LEAST]
    lines = {}
    for group in found:
        alike = [other[0] for other in found if other[0].method == group[0].method]
        apart = differences(alike, axis.free)
        place = alike.index(group[0])
        told = [f"{name} {short(values[place])}" for name, values in apart.items() if values[place] is not None]
        if len({_mix(axis, other) for other in alike}) > 1:
            told.append(f"mix {short(_mix(axis, group[0]))}")
        points = [(axis.of(entry) or 0, entry.cells()[AVERAGE]) for entry in group]
        lines[", ".join([method_name(group[0].method), *told])] = sorted(points, key=lambda point: point[0])
    return lines


def _mix(axis: Axis, entry: Entry) -> str | None:
    """Which mix it was trained on, at whatever scale, where the axis frees the data's content; see ``Run.mix``."""
    return entry.first.mix if "data" in axis.free else None


def _draw(axis: Axis, lines: Lines, base: str, form: str) -> bytes:
    figure = new_figure(5.2, 3.6, "--plots")
    import matplotlib

    panel = figure.subplots()
    for number, (label, points) in enumerate(lines.items()):
        draw_line(panel, number, label, points)
    places = sorted({place for points in lines.values() for place, _ in points})
    if axis.doubling:
        panel.set_xscale("log", base=2)
    panel.set_xticks(places, [f"{place:g}" for place in places])
    panel.minorticks_off()
    panel.set_xlabel(axis.label)
    panel.set_ylabel("average of the eleven tasks, %")
    panel.set_title(plain(f"{base}, 95 % intervals"), fontsize=9)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, frameon=False)
    file = io.BytesIO()
    # Without a date and with fixed ids the same rows give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": axis.file, "svg.fonttype": "none"}):
        figure.savefig(file, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()
