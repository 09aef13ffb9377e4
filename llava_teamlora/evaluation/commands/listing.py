"""``evaluate list``."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser("list", help="Name the benchmarks", description="Name the benchmarks.")
    parser.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.benchmarks import BENCHMARKS

    width = max(map(len, BENCHMARKS))
    for name, benchmark in BENCHMARKS.items():
        print(f"{name:<{width}}  {benchmark.summary}")
    return 0
