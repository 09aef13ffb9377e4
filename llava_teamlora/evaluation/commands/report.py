"""``evaluate report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_REPORT = """\
Tables of scores.json files. Give files, folders with one folder a benchmark, or run folders; name a row with LABEL=.
Scores of one benchmark become one table, its baselines below; a terminal shows the main figures, all with --full.
Scores of several benchmarks become a table of methods and benchmarks in the shape of the paper's Table 6, the
published rows of the paper and of LLaVA below.
The average stands only where all nine benchmarks are there and complete. ± is one standard error.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate report runs/my-run                                  everything that was evaluated there
  llava-teamlora evaluate report TeamLoRA=runs/a LoRA=runs/b --out table.md   methods side by side
  llava-teamlora evaluate report tuned=a/scores.json untuned=b/scores.json    one benchmark
  llava-teamlora evaluate report a/scores.json --full                         with each group and measure
  llava-teamlora evaluate record vizwiz 48.4 --out runs/a/evaluation/vizwiz/scores.json   a test server's figure
"""
_FORMATS = ("table", "md", "csv", "json")


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "report",
        help="Tables of scores.json files, as the paper's Table 6",
        description=_REPORT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="[LABEL=]PATH", help="scores.json, or a folder with such files")
    add("--full", action="store_true", help="all figures of one benchmark, not its main ones alone (a file has all)")
    add("--format", choices=_FORMATS, help="default: by the ending of --out, else table")
    add("--out", type=Path, metavar="FILE", help="write the table there instead of printing it")
    add("--plot", type=Path, metavar="FILE.png", help="also draw it: a panel a column, 95 %% intervals")
    add("--no_paper", action="store_true", help="leave out the published rows")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from llava_teamlora.errors import UserError
    from llava_teamlora.evaluation.report import build_report, draw_report, print_report
    from llava_teamlora.evaluation.score_files import read_scores
    from llava_teamlora.files import write_atomically

    read = {file.path.resolve() for file in read_scores(arguments.files)}
    for path in (arguments.out, arguments.plot):
        if path is not None and path.resolve() in read:
            raise UserError(f"{path}: holds scores of this very table; write to another file")
    report = build_report(arguments.files, published=not arguments.no_paper)
    ending = arguments.out.suffix[1:] if arguments.out else ""
    form = arguments.format or (ending if ending in _FORMATS else "table")
    if arguments.out:
        write_atomically(arguments.out, draw_report(report, form))
        print(f"table: {arguments.out}")
    else:
        print_report(report, form, full=arguments.full)
    if arguments.plot:
        from llava_teamlora.evaluation.plot import draw_plot

        write_atomically(arguments.plot, draw_plot(report))
        print(f"plot: {arguments.plot}")
    return 0
