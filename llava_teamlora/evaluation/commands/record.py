"""``evaluate record``."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

_RECORD = """\
Write down what a test server answered, so that evaluate report can show it. Only for benchmarks whose truth is not
public (evaluate list); the table marks the figure as the server's. Give --answers, --out or both.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate record vizwiz 48.4 --answers runs/a/evaluation/vizwiz/predictions.jsonl
  llava-teamlora evaluate record vizwiz 48.4 --out runs/a/evaluation/vizwiz/scores.json --source "EvalAI, 2 May"
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "record",
        help="Write down a test server's score",
        description=_RECORD,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCH", help="a benchmark's name (llava-teamlora evaluate list)")
    add("percent", type=float, metavar="PERCENT", help="as the server shows it: 48.4")
    add("--answers", type=Path, metavar="FILE", help="the predictions.jsonl whose export was sent in")
    add("--out", type=Path, metavar="FILE", help="default: beside the answers, as evaluate score")
    add("--source", metavar="TEXT", help="where and when it was obtained (default: today's date)")
    parser.set_defaults(run=_record)


def _record(arguments: argparse.Namespace) -> int:
    from llava_teamlora.errors import UserError
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.companions import default_out
    from llava_teamlora.evaluation.report import build_report, print_report
    from llava_teamlora.evaluation.score_files import SCORES
    from llava_teamlora.evaluation.server_scores import record_score

    if arguments.out is None and arguments.answers is None:
        raise UserError("evaluate record: say where the score goes: --answers FILE, --out FILE or both")
    out = arguments.out or default_out(arguments.answers, SCORES)
    source = f"recorded {date.today()}" if arguments.source is None else arguments.source
    record_score(get_benchmark(arguments.benchmark), arguments.percent, source, out, arguments.answers)
    print_report(build_report([str(out)]))
    print(f"scores: {out}")
    return 0
