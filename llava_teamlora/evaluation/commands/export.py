"""``evaluate export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_EXPORT = """\
Write what a benchmark's official tool or test server takes, from a complete answers file, ours or LLaVA's.
Missing, duplicate, unknown or shuffled answers are refused: a server would score them without a word.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate export vizwiz --answers predictions.jsonl --out upload
  llava-teamlora evaluate export mmbench_test --answers predictions.jsonl --out upload
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "export",
        help="Write the official tool's or server's file from an answers file",
        description=_EXPORT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCH", help="a benchmark's name (llava-teamlora evaluate list)")
    add("--answers", type=Path, required=True, metavar="FILE", help="predictions.jsonl, or LLaVA's answers file")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    add("--data_root", type=Path, metavar="DIR", help="folder of the benchmarks (default: playground/data/eval)")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.scoring import export

    benchmark = get_benchmark(arguments.benchmark)
    for path in export(benchmark, arguments.answers, arguments.out, arguments.data_root):
        print(f"written: {path}")
    if benchmark.server:
        print(f"then: {benchmark.server}")
    return 0
