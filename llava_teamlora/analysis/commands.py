"""``llava-teamlora inspect routing``: what a run's routers did, as a table."""

from __future__ import annotations

import argparse
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from llava_teamlora.analysis.routing import RoutingRow

_ROUTING = """\
Print what the routers did in one window of a run that was trained with --routing_telemetry_steps N: for each layer the
normalised entropy of phi (1: all experts alike, 0: one alone), each expert's load (share of positions that prefer it),
dead experts (numbered from 0), and how far M has moved from its start. The file holds more.
"""
_EXAMPLES = """\
examples:
  llava-teamlora inspect routing runs/my-run
  llava-teamlora inspect routing runs/my-run --group image --step 500
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``inspect`` on the program's subparsers; each leaf sets ``run``, arguments -> exit status."""
    parser = subparsers.add_parser("inspect", help="look into a run folder", description="Look into a run folder.")
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    leaf = commands.add_parser(
        "routing",
        help="what the routers did",
        description=_ROUTING,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    leaf.add_argument("run_folder", type=Path, help="run folder, checkpoint, or a routing.jsonl")
    leaf.add_argument("--group", default="all", help="group of positions: all, image, text, answer, task/NAME")
    leaf.add_argument("--step", type=int, help="the window that ended with this step (default: the last)")
    leaf.set_defaults(run=_routing)


def _routing(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from llava_teamlora.analysis.routing import read_routing

    rows = select(read_routing(arguments.run_folder), arguments.group, arguments.step, str(arguments.run_folder))
    Console().print(as_table(rows, arguments.group))
    return 0


def select(rows: Sequence[RoutingRow], group: str, step: int | None, source: str) -> list[RoutingRow]:
    """The rows of one window that have the group.

    Args:
        rows: of a whole file.
        group: name of a group.
        step: that ends the window; None is the last.
        source: named in errors.

    Raises:
        UserError: no rows yet, no such step, or no such group in it.
    """
    from llava_teamlora.errors import UserError, nearest

    if not rows:
        raise UserError(f"{source}: no window is finished yet")
    steps = sorted({row.step for row in rows})
    step = steps[-1] if step is None else step
    window = [row for row in rows if row.step == step]
    if not window:
        known = ", ".join(map(str, steps[-8:]))
        raise UserError(f"{source}: no window ends with --step {step}; {'the last ' if steps[8:] else ''}do: {known}")
    found = [row for row in window if group in row.groups]
    if not found:
        known = list(dict.fromkeys(name for row in window for name in row.groups))
        raise UserError(
            f"{source}: no position of --group {group!r} in step {step}; there are {', '.join(known)}"
            f"{nearest(group, known)}"
        )
    return found


def as_table(rows: Sequence[RoutingRow], group: str) -> Table:
    """For a terminal: one line for each layer (and adapter, where there are several)."""
    from rich.markup import escape
    from rich.table import Table

    first = rows[0]
    several = len({row.adapter for row in rows}) > 1
    counts = sorted({row.groups[group].count for row in rows})
    positions = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    steps = f"steps {first.step - first.steps + 1} to {first.step}"
    prefix = _shared_prefix([row.layer for row in rows])
    title = f"{group}: {positions} positions of {steps}" + (f", layers {prefix}…" if prefix else "")
    table = Table(title=escape(title), title_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("entropy", "load in %", "dead", "M drift", "M cond."):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        statistics, moved = row.groups[group], ("-", "-")
        if row.interaction is not None:
            moved = (f"{row.interaction.drift:.4f}", f"{row.interaction.condition:.2f}")
        table.add_row(
            escape(row.layer.removeprefix(prefix) + (f" ({row.adapter})" if several else "")),
            f"{statistics.entropy_normalized:.3f}",
            " ".join(f"{100 * share:3.0f}" for share in statistics.load),
            " ".join(map(str, statistics.dead)) or "-",
            *moved,
        )
    return table


def _shared_prefix(names: Sequence[str]) -> str:
    """What all dotted names begin with, up to and with a dot, at least one part left over."""
    shared = os.path.commonprefix([name.rpartition(".")[0] + "." for name in names])
    return shared[: shared.rfind(".") + 1] if len(set(names)) > 1 else ""
