"""What a bench found -> a table for the terminal, and files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.files import write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_VERDICTS = {True: "[green]yes[/]", False: "[bold red]no[/]", None: "[yellow]inconclusive[/]"}


@dataclass(frozen=True)
class Row:
    """One variant's figures.

    Attributes:
        variant: name in VARIANTS.
        k: number of experts.
        r: rank of one.
        dtype: "bf16", "fp32" or "amp".
        figures: by name; of a ratio its quartiles are called "q1" and "q3".
    """

    variant: str
    k: int
    r: int
    dtype: str
    figures: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        head = {"variant": self.variant, "k": self.k, "r": self.r, "dtype": self.dtype}
        return {**head, **self.figures}


@dataclass(frozen=True)
class Check:
    """A limit and what was found.

    Attributes:
        what: in words, with the limit.
        found: the figure, with its quartiles where it has some.
        limit: at most this, or at least where `what` says >=.
        holds: whether it is kept; None where noise does not let one say.
    """

    what: str
    found: float
    limit: float
    holds: bool | None
    q1: float | None = None
    q3: float | None = None

    @classmethod
    def counted(cls, what: str, found: float, limit: float) -> Check:
        """Of an exact figure."""
        return cls(what, float(f"{found:.4g}"), limit, found <= limit)


@dataclass(frozen=True)
class Column:
    """Of a table: a figure's name, what stands above it, how it is written."""

    figure: str
    head: str
    form: str = "{:.3g}"


@dataclass(frozen=True)
class Found:
    """What a bench gives back.

    Attributes:
        title: of the table.
        rows: in order.
        columns: which of the figures are shown.
        checks: limits.
        notes: below the table.
        plotted: name of the figure that is drawn.
        split: names of what parts the rows into blocks, and into panels of the picture.
        picture: draws a PNG file's content, where the usual picture (plots.py) won't do.
    """

    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    plotted: str = "ratio"
    split: Sequence[str] = ("dtype",)
    picture: Callable[[], bytes] | None = None


def spread(ratio: float, q1: float | None, q3: float | None) -> str:
    """A ratio and its quartiles, as the tables show them."""
    return f"{ratio:.3f}" + (f" ({q1:.2f}–{q3:.2f})" if q1 is not None and q3 is not None else "")


def as_table(found: Found) -> RenderableType:
    """For a terminal: a table a block of the rows, and the limits below."""
    from rich.console import Group
    from rich.text import Text

    notes = [Text(note, style="dim") for note in found.notes]
    tables = [_table(found, block, rows) for block, rows in blocks(found).items()]
    limits = [_limits(found.checks)] if found.checks else []
    return Group(Text(found.title, style="bold"), *tables, *notes, Text(), *limits)


def blocks(found: Found) -> dict[str, list[Row]]:
    """Rows by what parts them, named by it: ``bf16, checkpointing: True``."""
    parted: dict[str, list[Row]] = {}
    for row in found.rows:
        values = ((name, row.to_dict().get(name)) for name in found.split)
        name = ", ".join(str(value) if name in ("dtype", "part") else f"{name}: {value}" for name, value in values)
        parted.setdefault(name, []).append(row)
    return parted


def _table(found: Found, block: str, rows: Sequence[Row]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=block, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    columns = [column for column in found.columns if column.figure not in found.split]
    for head in ("k", "r", *(column.head for column in columns)):
        table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        table.add_row(row.variant, str(row.k), str(row.r), *(_cell(row.to_dict(), column) for column in columns))
    return table


def _cell(figures: dict[str, Any], column: Column) -> str:
    value = figures.get(column.figure)
    if column.figure == "ratio" and value is not None:
        return spread(value, figures.get("q1"), figures.get("q3")) + (" ?" if figures.get("inconclusive") else "")
    return "-" if value is None else column.form.format(value)


def _limits(checks: Sequence[Check]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table("to show", "found", "holds", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for check in checks:
        table.add_row(check.what, spread(check.found, check.q1, check.q3), _VERDICTS[check.holds])
    return table


def write(folder: Path, name: str, settings: dict[str, Any], found: Found) -> list[Path]:
    """Write ``NAME.json`` and ``NAME.png``.

    Args:
        folder: made if it is not there.
        name: of the bench.
        settings: of the run.
        found: its results.

    Raises:
        UserError: matplotlib is not installed.
    """
    from llava_teamlora.bench.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "what": name,
        "settings": settings,
        **surroundings(settings.get("device", "cpu")),
        "rows": [row.to_dict() for row in found.rows],
        "checks": [vars(check) for check in found.checks],
    }
    write_atomically(folder / f"{name}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / f"{name}.png", found.picture() if found.picture else draw(found))
    return [folder / f"{name}.json", folder / f"{name}.png"]


def surroundings(device: str) -> dict[str, Any]:
    """Versions and the machine, for a JSON file."""
    import torch

    from llava_teamlora.run_card import library_versions

    of_gpu = device.startswith("cuda") and torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if of_gpu else platform.processor() or platform.machine()
    machine = {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"versions": library_versions(), "machine": machine}
