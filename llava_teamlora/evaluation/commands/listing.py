"""``evaluate list``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.evaluation.types import Benchmark

_LIST = """\
Name the benchmarks: what is measured, how it is scored (here; by a judge model; by its test server, which takes
the file that evaluate export writes), and the folder of its files under --data_root.
"""
_INDENT = 4


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser("list", help="Name the benchmarks", description=_LIST)
    parser.set_defaults(run=_list)


def scored_where(benchmark: Benchmark) -> str:
    """In words."""
    if benchmark.server:
        return "scored by its server"
    return "graded by a judge" if benchmark.judged else "scored here"


def folder(benchmark: Benchmark) -> str:
    """What all its files share below the folder of benchmarks; empty for files in a package."""
    import os
    from pathlib import Path

    root = Path("root")
    paths = [need.path.relative_to(root) for need in benchmark.needs(root) if need.path.is_relative_to(root)]
    return os.path.commonpath([path.parts[0] for path in paths]) if paths else ""


def _list(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from llava_teamlora.evaluation.benchmarks import BENCHMARKS

    console = Console()
    for name, benchmark in BENCHMARKS.items():
        place = folder(benchmark)
        facts = [benchmark.metric, scored_where(benchmark), f"files in {place}" if place else "files in its package"]
        console.print(Text(name, "bold"))
        console.print(Padding(Text(benchmark.summary), (0, 0, 0, _INDENT), expand=False))
        console.print(Padding(Text("; ".join(facts), "dim"), (0, 0, 0, _INDENT), expand=False))
    return 0
