"""``llava-teamlora cme …``: one module a command."""

from __future__ import annotations

import argparse
from typing import Any

from llava_teamlora.cme.commands import build, report, sources

_CME = """\
CME, the paper's text-only benchmark: put its training mix together from public sets as they lie on disk, and lay out
runs as the paper's tables. Its eleven tasks are answered and scored by llava-teamlora evaluate.
"""
_EXAMPLES = """\
examples:
  llava-teamlora cme sources                      the 22 sets: licence, files, what is there
  llava-teamlora cme build --out mix.jsonl        the training mix
  llava-teamlora cme report runs/a runs/b         Table 2 of runs, the paper's rows beside them
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``cme`` on the program's subparsers; each leaf sets ``run``, arguments -> exit status."""
    parser = subparsers.add_parser(
        "cme",
        help="the text-only benchmark: its training mix, its tables",
        description=_CME,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (sources, build, report):
        module.add(commands)
