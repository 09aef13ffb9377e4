"""``evaluate report``."""

from __future__ import annotations

import argparse
from typing import Any

_REPORT = "One table of several scores.json of one benchmark, the baselines below. Name a row with LABEL=FILE."


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "report",
        help="One table of several scores.json",
        description=_REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="[LABEL=]FILE", help="scores.json files of one benchmark")
    parser.add_argument("--format", choices=("table", "md", "json"), default="table", help="default: table")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.report import build_report, print_report

    print_report(build_report(arguments.files), arguments.format)
    return 0
