"""``evaluate score``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SCORE = """\
Score an answers file, ours or one that LLaVA's scripts wrote (chunks merged by cat are fine). No model is loaded.
Missing, duplicate, unknown and shuffled answers are refused, and those to another edition of the data; --partial
scores what is there, or graded, and says so in the scores' name. Written are scores.json (m.scores.json of another
answers file than predictions.jsonl, m.jsonl) and, beside it, scores.rows.jsonl with every question: prompt, answer, how
it was parsed, its score.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate score pope --answers predictions.jsonl
  llava-teamlora evaluate score mme --answers playground/data/eval/MME/answers/llava-v1.5-7b.jsonl --out scores.json
  llava-teamlora evaluate score mmvet --answers predictions.jsonl --grades grades.json     judged by another model
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "score",
        help="Score an answers file; loads no model",
        description=_SCORE,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCH", help="a benchmark's name (llava-teamlora evaluate list)")
    add("--answers", type=Path, required=True, metavar="FILE", help="predictions.jsonl, or LLaVA's answers file")
    add("--out", type=Path, metavar="FILE", help="default: beside the answers, see above")
    add("--data_root", type=Path, metavar="DIR", help="folder of the benchmarks (default: playground/data/eval)")
    add("--grades", type=Path, metavar="FILE", help="a judge's grades, for a benchmark that is judged (evaluate grade)")
    add("--limit", type=int, metavar="N", help="score the first N questions; the scores are then named partial")
    add("--partial", action="store_true", help="score what is there, or graded, and say so in the scores' name")
    parser.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.companions import default_out
    from llava_teamlora.evaluation.report import build_report, print_report
    from llava_teamlora.evaluation.score_files import SCORES
    from llava_teamlora.evaluation.scoring import score

    out = arguments.out or default_out(arguments.answers, SCORES)
    benchmark = get_benchmark(arguments.benchmark)
    options = {name: getattr(arguments, name) for name in ("partial", "limit", "data_root", "grades")}
    score(benchmark, arguments.answers, out, **options)
    print_report(build_report([str(out)]))
    print(f"scores: {out}")
    return 0
