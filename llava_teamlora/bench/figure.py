"""The paper's Figure 4a redrawn: training time over that of LoRA, by the number of experts, with ours beside.

In: the JSON files of ``bench train`` or ``bench step`` over several k. Out: a PNG file. The paper's own lines are what
its text says: MoELoRA takes 19, 62 and 138 % more than LoRA at k = 2, 4, 8, TeamLoRA 87, 70 and 63 % of that time.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.bench.output import Row
from llava_teamlora.bench.plots import draw_lines
from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

_MOELORA = {2: 1.19, 4: 1.62, 8: 2.38}
_OF_MOELORA = {2: 0.87, 4: 0.70, 8: 0.63}
PAPER = {
    "MoELoRA, the paper's": _MOELORA,
    "TeamLoRA, the paper's": {k: _MOELORA[k] * share for k, share in _OF_MOELORA.items()},
}
"""Line -> k -> training time over LoRA's."""

_SPLIT = ("dtype", "checkpointing")
_NO_EXPERTS = ("base", "peft-lora", "fused-lora")


def add_parser(subparsers: Any) -> None:
    """Mount ``bench figure``."""
    what = "Draw the paper's Figure 4a, training time over LoRA's by the number of experts, from measured files."
    example = "llava-teamlora bench step --total_rank 128 --k 1 2 4 8 16 --dtype bf16 --out results"
    parser = subparsers.add_parser(
        "figure",
        help="the paper's Figure 4a, from files of step or train",
        description=what,
        epilog=f"example:\n  {example}\n  llava-teamlora bench figure results/step.json --out results/fig4a.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON files of bench step or bench train")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="picture to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw what the files hold; returns the exit status."""
    write_atomically(arguments.out, fig_4a([row for path in arguments.files for row in read_rows(path)]))
    print(arguments.out)
    return 0


def read_rows(path: Path) -> list[Row]:
    """Rows of a file that a bench wrote.

    Raises:
        UserError: it cannot be read, or holds no ratios.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [Row(row.pop("variant"), row.pop("k"), row.pop("r"), row.pop("dtype"), row) for row in rows]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no file of llava-teamlora bench") from error


def fig_4a(rows: Sequence[Row]) -> bytes:
    """Draw a panel for each dtype and checkpointing.

    Args:
        rows: with a "ratio" over a LoRA of the same total rank.

    Returns:
        A PNG file's content.

    Raises:
        UserError: no variant was measured with several numbers of experts, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("the picture needs matplotlib; pip install matplotlib") from error
    panels: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.figures.get("ratio") is not None and row.variant not in _NO_EXPERTS:
            panels.setdefault(tuple(row.to_dict().get(name) for name in _SPLIT), []).append(row)
    if not any(len({row.k for row in own}) > 1 for own in panels.values()):
        raise UserError("the figure needs ratios at several numbers of experts, say --k 2 4 8")
    names = list(dict.fromkeys(row.variant for own in panels.values() for row in own))
    figure = Figure(figsize=(1.6 + 4 * len(panels), 4.6), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False).flat
    for panel, ((dtype, checkpointing), own) in zip(places, panels.items(), strict=True):
        draw_lines(panel, own, names, "ratio")
        panel.axhline(1.0, color="black", linewidth=1, label="LoRA (peft)")
        for (name, line), dashes in zip(PAPER.items(), ("--", ":"), strict=True):
            panel.plot(list(line), list(line.values()), dashes, color="0.45", linewidth=1.2, label=name)
        more = {None: "", True: ", checkpointing", False: ", no checkpointing"}[checkpointing]
        panel.set(title=f"{dtype}{more}", xlabel="experts k", ylabel="training time over LoRA's")
        panel.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
