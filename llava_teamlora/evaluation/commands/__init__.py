"""``llava-teamlora evaluate …``: one module a command."""

from __future__ import annotations

import argparse
from typing import Any

from llava_teamlora.evaluation.commands import (
    build,
    check,
    compare,
    export,
    grade,
    listing,
    lm_eval,
    predict,
    record,
    report,
    score,
    view,
)

_EVALUATE = """\
Answer benchmarks' questions with a model, and score the answers. The two are apart: answers are written as they
come (kill it, start it again, it goes on) and end in predictions.jsonl, which score reads without any model.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate run easy_vqa --model runs/my-run
  llava-teamlora evaluate run easy_vqa --model playground/tiny          the untuned base
  llava-teamlora evaluate score easy_vqa --answers predictions.jsonl --out scores.json
  llava-teamlora evaluate report tuned=a/scores.json untuned=b/scores.json --format md
  llava-teamlora evaluate compare untuned=b/scores.json tuned=a/scores.json
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``evaluate`` on the program's subparsers; each leaf sets ``run``, arguments -> exit status."""
    parser = subparsers.add_parser(
        "evaluate",
        help="answer and score benchmarks",
        description=_EVALUATE,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (listing, check, build, predict, lm_eval, grade, score, export, record, report, view, compare):
        module.add(commands)
