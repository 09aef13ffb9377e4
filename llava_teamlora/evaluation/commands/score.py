"""``evaluate score``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SCORE = """\
Score an answers file, ours or one that LLaVA's scripts wrote. No model is loaded. Missing, duplicate or unknown
answers are refused; --partial scores what is there and says so in the scores' name.
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "score",
        help="Score an answers file; loads no model",
        description=_SCORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCH", help="a benchmark's name (llava-teamlora evaluate list)")
    add("--answers", type=Path, required=True, metavar="FILE", help="predictions.jsonl")
    add("--out", type=Path, metavar="FILE", help="default: scores.json beside the answers")
    add("--data_root", type=Path, metavar="DIR", help="the benchmark's files, if not in their usual place")
    add("--partial", action="store_true", help="score what is there, and say so in the scores' name")
    parser.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.report import build_report, print_report
    from llava_teamlora.evaluation.scoring import score

    out = arguments.out or arguments.answers.parent / "scores.json"
    benchmark = get_benchmark(arguments.benchmark)
    score(benchmark, arguments.answers, out, partial=arguments.partial, data_root=arguments.data_root)
    print_report(build_report([str(out)]))
    print(f"scores: {out}")
    return 0
