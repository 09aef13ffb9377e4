"""``cme report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_REPORT = """\
Tables of runs on CME's eleven tasks in the shape of the paper's, its own rows in a block below:
  2  methods: MoE, rank, training time, trained parameters (of the base's), the eleven tasks, average
  3  ranks: six tasks, in blocks of about equal size
  4  ablation: averages with competition and collaboration on and off, by rank
  5  bases
Give run folders, a folder of them, or a sweep's folder; name a row with LABEL=. Runs that differ in nothing but their
seed become one row, a mean with its interval. An untuned base is given as the folder of its scores; those in a run's
evaluation/untuned/ are found. The average stands only where all eleven tasks are there and complete.
"""
_EXAMPLES = """\
examples:
  llava-teamlora cme report runs/my-run                                      one row beside majority and the paper's
  llava-teamlora cme report TeamLoRA=runs/a LoRA=runs/b --table 2
  llava-teamlora cme report runs/sweep-of-ranks --table 3
  llava-teamlora cme report runs/sweep --table all --out report --plots      files: Markdown, CSV, JSON, PNG and SVG
  llava-teamlora evaluate run cme --model BASE --out runs/base-cme           scores of an untuned base, to be given too
"""
_TABLES = ("2", "3", "4", "5", "all")
_FORMATS = ("table", "md", "csv", "json")


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "report",
        help="Tables 2 to 5 and Figure 3 of runs, the paper's rows beside them",
        description=_REPORT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "runs", nargs="+", metavar="[LABEL=]PATH", help="run folder, folder of runs, sweep, or an untuned base's scores"
    )
    add(
        "--table", choices=_TABLES, default="2", help="the paper's number; all: every one that these runs have rows for"
    )
    add("--format", choices=_FORMATS, help="default: table on the screen; md, csv and json with --out")
    add("--no_paper", action="store_true", help="leave out the published rows")
    add("--out", type=Path, metavar="DIR", help="write files there instead of printing")
    add("--plots", action="store_true", help="with --out: draw Figure 3, the average over experts and over data scale")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from llava_teamlora.cme.plots import draw_figures
    from llava_teamlora.cme.report import build_tables, draw_tables, notes_of, write_tables
    from llava_teamlora.errors import UserError
    from llava_teamlora.evaluation.report import print_report

    out: Path | None = arguments.out
    if arguments.plots and out is None:
        raise UserError("--plots: give the folder of the figures, --out DIR")
    tables = build_tables(arguments.runs, arguments.table, published=not arguments.no_paper)
    notes = notes_of(tables)
    if out is not None:
        written = write_tables(tables, out, (arguments.format,) if arguments.format else ("md", "csv", "json"))
        if arguments.plots:
            figures, left_out = draw_figures(tables.entries, out)
            if not figures:
                raise UserError(f"--plots: {'; '.join(left_out)}")
            written, notes = [*written, *figures], [*notes, *left_out]
        for path in written:
            print(path)
    elif arguments.format in (None, "table"):
        for report in tables.reports.values():
            print_report(report, full=True)
    else:
        print(draw_tables(tables, arguments.format), end="")
    for note in notes:
        print(note, file=sys.stderr)
    return 0
