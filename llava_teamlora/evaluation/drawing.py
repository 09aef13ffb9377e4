"""What the pictures of reports have in common: an empty figure, a line of cells, a PNG's bytes. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.tables import Cell, half_width

# Okabe and Ito's colours are told apart by the colour-blind too; marks and dashes, in a print without colours.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_MARKS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")


def new_figure(width: float, height: float, purpose: str) -> Any:
    """An empty figure, its size in inches.

    Raises:
        UserError: matplotlib is not installed; ``purpose`` says what needs it.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]  older environments lack it
    except ImportError as error:
        raise UserError(f"{purpose}: needs matplotlib; pip install matplotlib") from error
    return Figure(
        figsize=(width, height), layout="constrained"
    )  # no pyplot: it would keep figures and ask for a display


def draw_line(panel: Any, number: int, label: str, points: Sequence[tuple[float, Cell]]) -> None:
    """Draw the panel's line of that number: each cell's value over its place, with its 95 % interval."""
    panel.errorbar(
        [place for place, _ in points],
        [cell.value for _, cell in points],
        yerr=[half_width(cell) or 0.0 for _, cell in points],
        label=plain(label),
        color=_COLOURS[number % len(_COLOURS)],
        marker=_MARKS[number % len(_MARKS)],
        linestyle=_DASHES[number % len(_DASHES)],
        linewidth=1.3,
        markersize=4,
        capsize=2,
    )


def plain(text: str) -> str:
    """Matplotlib would read ``$`` as mathematics."""
    return text.replace("$", r"\$")


def as_png(figure: Any) -> bytes:
    """A PNG file's content."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
