"""The end of scripts/finetune_teamlora.sh: the table, the next commands, and one JSON object as the last line.

In: a finished run folder and, where there was an evaluation, its scores and those of the untuned base. Out: see
run_summary.py. Scores are shares of 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from run_summary import costs, main, tell

from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.report import build_report


def summarize(run: Path, scores: Path | None, untuned: Path | None, total_seconds: float) -> dict[str, Any]:
    """The JSON object: figures that no benchmark gave are null."""
    tuned = read_json_object(scores) if scores else None
    base = read_json_object(untuned) if untuned else None
    return {
        "run": str(run),
        "accuracy": tuned["total"]["value"] if tuned else None,
        "stderr": tuned["total"]["stderr"] if tuned else None,
        "majority": tuned["baselines"]["majority"]["total"]["value"] if tuned else None,
        "question_only": tuned["baselines"]["question-only"]["total"]["value"] if tuned else None,
        "untuned": base["total"]["value"] if base else None,
        **costs(run, [content for content in (tuned, base) if content], total_seconds),
    }


def tell_run(arguments: argparse.Namespace) -> None:
    """The run's scores beside its base's, where there was an evaluation."""
    run = arguments.run
    summary = summarize(run, arguments.scores, arguments.untuned, arguments.total_seconds)
    files = [("tuned", arguments.scores), ("untuned base", arguments.untuned)]
    report = build_report([f"{label}={path}" for label, path in files if path]) if arguments.scores else None
    benchmark, hint = ("easy_vqa", "") if report else ("BENCH", "   (evaluate list)")
    commands = {
        "talk to it": f"llava-teamlora cli {run} --image PICTURE",
        "evaluate it": f"llava-teamlora evaluate run {benchmark} --model {run}{hint}",
    }
    tell(run, summary, report, commands)


if __name__ == "__main__":
    raise SystemExit(main(tell_run, scores="scores.json of the run", untuned="scores.json of the untuned base"))
