"""A cell's flags as a command line, and all cells' flags checked before the first of them starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.sweep.grid import Cell, Flags, Grid

_FILES = ("data_path", "validation_data_path")
_SHOWN = 8
CHECK = (sys.executable, "-m", "llava_teamlora.sweep.flag_check")


@dataclass(frozen=True)
class Checked:
    """What the trainer makes of all cells.

    Attributes:
        gpus: that a process sees here.
        arguments: of each cell, with every default, by its name.
        kept: those of them that may not change once the cell has begun.
        notes: what to tell the user.
    """

    gpus: int
    arguments: Mapping[str, dict[str, Any]]
    kept: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...]


def words(flags: Flags) -> list[str]:
    """Flags as a command line; the config file, over which the others go, first."""
    order = sorted(flags, key=lambda name: name != "config")
    return [word for name in order for word in (f"--{name}", str(flags[name]))]


def train_words(cell: Cell, out: Path) -> list[str]:
    """What follows ``llava-teamlora train``."""
    return [*words(cell.flags), "--output_dir", str(out / cell.name)]


def check_flags(grid: Grid, environment: Mapping[str, str], assume_gpu: bool = False) -> Checked:
    """Let the trainer's own parser read the flags of every cell, in one process for all.

    Args:
        grid: with its cells.
        environment: of the process.
        assume_gpu: pass flags that only lack a GPU here.

    Raises:
        UserError: some are refused, all of them named; or two cells are the same run.
    """
    answer = _asked(
        {"cells": [train_words(cell, grid.out) for cell in grid.cells], "assume_gpu": assume_gpu}, environment
    )
    refused: dict[str, list[str]] = defaultdict(list)
    for cell, found in zip(grid.cells, answer["cells"], strict=True):
        if "error" in found:
            refused[found["error"]].append(cell.name)
    if refused:
        lines = [f"  {_few(names)}: {error}" for error, names in refused.items()]
        count = sum(map(len, refused.values()))
        raise UserError(
            f"{grid.path}: the trainer refuses the flags of {count} of {len(grid.cells)} cells\n" + "\n".join(lines)
        )
    cells = {cell.name: found for cell, found in zip(grid.cells, answer["cells"], strict=True)}
    kept = {name: found["kept"] for name, found in cells.items()}
    _refuse_same_runs(kept, grid.path)
    arguments = {name: found["arguments"] for name, found in cells.items()}
    return Checked(answer["gpus"], arguments, kept, tuple(answer["notes"]))


def _asked(question: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    found = subprocess.run(
        CHECK,
        input=json.dumps(question),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
    )
    if found.returncode:
        how = f"{' '.join(CHECK)} ended with status {found.returncode}"
        raise UserError(f"the flags cannot be checked: {how}\n{found.stderr[-2000:]}")
    return json.loads(found.stdout.splitlines()[-1])


def _refuse_same_runs(kept: Mapping[str, dict[str, Any]], path: Path) -> None:
    seen: dict[str, str] = {}
    for name, arguments in kept.items():
        other = seen.setdefault(json.dumps(arguments, sort_keys=True), name)
        if other != name:
            raise UserError(
                f"{path}: the cells {other} and {name} are the same run, defaults included; drop one of them"
            )


def refuse_missing_files(arguments: Mapping[str, dict[str, Any]]) -> None:
    """See that the data of all cells are there, once the preparations have been made.

    Raises:
        UserError: with the files that are not, and the cells that read them.
    """
    missing: dict[str, list[str]] = defaultdict(list)
    for name, said in arguments.items():
        for flag in _FILES:
            if said.get(flag) and not Path(said[flag]).is_file():
                missing[f"{said[flag]}: no such file (--{flag})"].append(name)
    if missing:
        raise UserError("\n".join(f"{reason}, of {_few(names)}" for reason, names in missing.items()))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
