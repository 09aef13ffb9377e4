"""``evaluate check``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.evaluation.checking import Checked
    from llava_teamlora.evaluation.types import Benchmark

_CHECK = """\
Look whether benchmarks' files are there and can be read: rows, pictures, the edition of the data; of what is
missing, where to get it, or that evaluate build makes it. Nothing is downloaded. The exit status is 0 only if
every benchmark asked for (all of them, without a name) is ready.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate check                                   all benchmarks in playground/data/eval
  llava-teamlora evaluate check mme pope --data_root /data/eval
  llava-teamlora evaluate check --json
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "check",
        help="What is there of the benchmarks' files, and what is missing",
        description=_CHECK,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmarks", nargs="*", metavar="BENCH", help="names, or cme for its eleven tasks (default: all)")
    add("--data_root", type=Path, metavar="DIR", help="folder of the benchmarks (default: playground/data/eval)")
    add("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    import json

    from llava_teamlora.evaluation.benchmarks import BENCHMARKS, get_benchmark, spelled_out
    from llava_teamlora.evaluation.checking import check

    benchmarks = [get_benchmark(name) for name in spelled_out(arguments.benchmarks or BENCHMARKS)]
    found = []
    for benchmark in benchmarks:
        found.append(check(benchmark, arguments.data_root))
        if not arguments.json:
            print("\n".join(lines(benchmark, found[-1])), flush=True)
    ready = sum(checked.ready for checked in found)
    if arguments.json:
        content = {"ready": ready == len(found), "benchmarks": {checked.name: checked.plain() for checked in found}}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print(f"{ready} of {len(found)} ready")
    return 0 if ready == len(found) else 1


def lines(benchmark: Benchmark, checked: Checked) -> list[str]:
    """One line where all is well, else one more for each thing that is missing."""
    from llava_teamlora.evaluation.commands.listing import scored_where

    head = f"{'ready' if checked.ready else 'not ready':<9}  {checked.name:<16}"
    if checked.data_sha256:
        head += f"  {checked.questions} questions, {checked.pictures} pictures"
        head += f", data {checked.data_sha256[:12]}, {scored_where(benchmark)}"
    below = []
    for need in checked.absent:
        remedy = f", or llava-teamlora evaluate build {checked.name}" if need.built else ""
        below.append(f"missing: {need.path} ({need.what}); from {need.source}{remedy}")
    for need in checked.absent_inputs:
        below.append(f"to build from: {need.path} ({need.what}); from {need.source}")
    if checked.absent_pictures:
        count = f"{len(checked.absent_pictures)} of {checked.pictures}"
        below.append(f"missing: {count} pictures, first {checked.absent_pictures[0]}")
    if checked.empty_pictures:
        count = f"{len(checked.empty_pictures)} of {checked.pictures}"
        below.append(f"empty: {count} pictures have 0 bytes, first {checked.empty_pictures[0]}; get them anew")
    if checked.error and not any(not need.pictures for need in checked.absent):
        below.append(checked.error)
    return [head.rstrip(), *(f"           {line}" for line in below)]
