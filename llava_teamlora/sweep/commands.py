"""``llava-teamlora sweep``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SWEEP = """\
Train and evaluate a grid of runs from one YAML file, unattended: one run folder a cell, a table at the end.

All flags of all cells are checked before the first run starts. With GPUs, each free one takes the next cell; without,
--jobs cells share the cores. Killed, interrupted or out of power, the same command goes on: what is done is skipped, an
interrupted run goes on from its checkpoint, and what failed is tried again. A cell that fails stops no other.

In the sweep's folder (`out` of GRID.yaml):
  CELL/            run folder, with evaluation/, log.txt (all that was printed) and cell.json (what it was told)
  sweep.json       where every cell stands, its seconds, scores and, if it failed, how
  results.md       the table: means over seeds with 95 % intervals; also results.csv, results.json and by-AXIS.png
Ctrl-C (or SIGTERM) lets running cells save first; a second one ends them at once.
Exit status: 0, 1 if a cell failed, 130 after an interruption.
"""
_EXAMPLES = """\
examples:
  llava-teamlora sweep scripts/sweeps/cme_table2.yaml --dry_run     every command; nothing is run
  llava-teamlora sweep scripts/sweeps/cme_table2.yaml               the paper's Table 2 in small, on the CPU
  llava-teamlora sweep grid.yaml --gpus 0,1,2,3                     four cells at once
  llava-teamlora sweep grid.yaml --only 'TeamLoRA*' '*seed=0'       some cells (folder names or labels)
docs/sweeps.md says what GRID.yaml may hold.
"""


def add_parser(subparsers: Any) -> None:
    """Mount it on the program's subparsers."""
    parser = subparsers.add_parser(
        "sweep",
        help="train and evaluate a grid of runs from one YAML file",
        description=_SWEEP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("grid", type=Path, metavar="GRID.yaml", help="see docs/sweeps.md")
    add("--gpus", metavar="0,1,…", help="GPUs to use, as CUDA_VISIBLE_DEVICES names them (default: all there are)")
    add("--jobs", type=int, metavar="N", help="cells at once on the CPU, whatever GPUs there are (without GPUs: 1)")
    add("--only", nargs="+", default=(), metavar="PATTERN", help="only cells whose folder or label matches (* and ?)")
    add("--dry_run", action="store_true", help="check everything, show the commands and stop; nothing is written")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from llava_teamlora.sweep.places import devices
    from llava_teamlora.sweep.run import sweep

    console = Console(highlight=False, soft_wrap=True)
    chosen = devices(arguments.gpus, arguments.jobs)
    return sweep(arguments.grid, chosen, arguments.only, arguments.dry_run, console)
