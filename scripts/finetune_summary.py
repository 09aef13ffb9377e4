"""The end of scripts/finetune_teamlora.sh: the table, the next commands, and one JSON object as the last line.

In: a finished run folder and, where there was an evaluation, its scores and those of the untuned base. Out: text, and
``summary.json`` in the run folder (which tells the script that this run's chain is complete).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.report import build_report, print_report
from llava_teamlora.files import write_atomically
from llava_teamlora.run_card import read_run_card


def summarize(run: Path, scores: Path | None, untuned: Path | None, total_seconds: float) -> dict[str, Any]:
    """The JSON object: figures that no benchmark gave are null."""
    results = read_run_card(run).results
    tuned = read_json_object(scores) if scores else None
    base = read_json_object(untuned) if untuned else None
    costs = [content["manifest"]["cost"]["peak_mem_mib"] for content in (tuned, base) if content]
    return {
        "run": str(run),
        "accuracy": tuned["total"]["value"] if tuned else None,
        "stderr": tuned["total"]["stderr"] if tuned else None,
        "majority": tuned["baselines"]["majority"]["total"]["value"] if tuned else None,
        "question_only": tuned["baselines"]["question-only"]["total"]["value"] if tuned else None,
        "untuned": base["total"]["value"] if base else None,
        "train_seconds": results["train_seconds"],
        "total_seconds": total_seconds,
        "peak_mem_mib": max([results["peak_mem_mib"], *costs]),
        "trainable_parameters": results["trainable_parameters"],
    }


def main() -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description="Print a finished run's table, the next commands and one JSON line.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--scores", type=Path, help="scores.json of the run")
    parser.add_argument("--untuned", type=Path, help="scores.json of the untuned base")
    parser.add_argument("--total_seconds", type=float, required=True, help="of the whole chain")
    arguments = parser.parse_args()
    try:
        summary = summarize(arguments.run, arguments.scores, arguments.untuned, arguments.total_seconds)
        files = [("tuned", arguments.scores), ("untuned base", arguments.untuned)]
        report = build_report([f"{label}={path}" for label, path in files if path]) if arguments.scores else None
        write_atomically(arguments.run / "summary.json", json.dumps(summary, indent=2) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(highlight=False, soft_wrap=True)
    if report is not None:
        print_report(report, console=console)
    console.print("\n[bold]Run folder[/bold]  " + str(arguments.run))
    console.print(f"  trained in {summary['train_seconds']:,} s; all figures in run.yaml, losses in loss_curve.png")
    console.print("\n[bold]Next[/bold]")
    console.print(f"  talk to it      llava-teamlora cli {arguments.run} --image PICTURE")
    if report is not None:
        console.print(f"  evaluate it     llava-teamlora evaluate run easy_vqa --model {arguments.run}")
    else:
        console.print(f"  evaluate it     llava-teamlora evaluate run BENCH --model {arguments.run}   (evaluate list)")
    console.print(f"  see its curves  tensorboard --logdir {arguments.run}")
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
