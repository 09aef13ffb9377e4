"""What the ends of the fine-tuning scripts have in common: a run's costs, and how it is told.

Out: the scores' table, the next commands and one JSON object as the last line; the same object as ``summary.json`` in
the run folder, which tells the script that this run's chain is complete.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.report import print_report
from llava_teamlora.evaluation.tables import Report
from llava_teamlora.files import write_atomically
from llava_teamlora.run_card import read_run_card


def main(tell_run: Callable[[argparse.Namespace], None], **files: str) -> int:
    """The command line of such an end; returns the exit status.

    Args:
        tell_run: all of it, told ``run``, ``total_seconds`` and the files.
        files: further options, each a file: name -> what it is.
    """
    parser = argparse.ArgumentParser(description="Print a finished run's table, the next commands and one JSON line.")
    parser.add_argument("run", type=Path, help="run folder")
    for name, what in files.items():
        parser.add_argument(f"--{name}", type=Path, help=what)
    parser.add_argument("--total_seconds", type=float, required=True, help="of the whole chain")
    try:
        tell_run(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def costs(run: Path, scores: Sequence[dict[str, Any]], total_seconds: float) -> dict[str, Any]:
    """What a run took.

    Args:
        run: folder.
        scores: contents of the ``scores.json`` files of its chain.
        total_seconds: of the whole chain.
    """
    results = read_run_card(run).results
    evaluations = [content["manifest"]["cost"]["peak_mem_mib"] for content in scores]
    return {
        "train_seconds": results["train_seconds"],
        "total_seconds": total_seconds,
        "peak_mem_mib": max([results["peak_mem_mib"], *evaluations]),
        "trainable_parameters": results["trainable_parameters"],
    }


def tell(run: Path, summary: dict[str, Any], report: Report | None, commands: dict[str, str]) -> None:
    """Write ``summary.json`` and print everything.

    Args:
        run: folder.
        summary: the JSON object.
        report: scores, where there was an evaluation.
        commands: what to do next: what for -> command.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomically(run / "summary.json", json.dumps(summary, indent=2) + "\n")
    console = Console(highlight=False, soft_wrap=True)
    if report is not None:
        print_report(report, console=console)
    console.print(f"\n[bold]Run folder[/bold]  {run}")
    console.print(f"  trained in {summary['train_seconds']:,} s; all figures in run.yaml, losses in loss_curve.png")
    console.print("\n[bold]Next[/bold]")
    for purpose, command in {**commands, "see its curves": f"tensorboard --logdir {run}"}.items():
        console.print(f"  {purpose:<15} {command}")
    print(json.dumps(summary), flush=True)
