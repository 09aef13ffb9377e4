"""``evaluate build``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_BUILD = """\
Make LLaVA's question files (llava_mme.jsonl, llava_pope_test.jsonl, …) from the official files of a benchmark, row
by row as LLaVA published them in its eval.zip. A file that is there is compared with what would be built, and is
never replaced by other content unless --overwrite says so.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate check mme           says which files are there, and which of them build makes
  llava-teamlora evaluate build mme pope
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "build",
        help="Make LLaVA's question files from the official files",
        description=_BUILD,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmarks", nargs="+", metavar="BENCH", help="names of benchmarks (llava-teamlora evaluate list)")
    add("--data_root", type=Path, metavar="DIR", help="folder of the benchmarks (default: playground/data/eval)")
    add("--overwrite", action="store_true", help="replace question files of other content")
    parser.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.building import build

    for benchmark in [get_benchmark(name) for name in arguments.benchmarks]:
        for built in build(benchmark, arguments.data_root, overwrite=arguments.overwrite):
            print(f"{built.state}: {built.path} ({built.rows} rows)")
    return 0
