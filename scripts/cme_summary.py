"""The end of scripts/finetune_cme_teamlora.sh: the table, the next commands, and one JSON object as the last line.

In: a finished run folder; where these were evaluated with ``evaluation/<task>/scores.json`` of the run and
``evaluation/untuned/<task>/scores.json`` of its base. Out: see run_summary.py. The object:

    run, train_seconds, total_seconds, peak_mem_mib, trainable_parameters
    average, stderr, majority, untuned    means over the eleven tasks: of the run with its standard error, of always
                                          giving the commonest answer, of the base; null unless all eleven are there
                                          and complete
    tasks                                 name -> score, stderr, metric, n (questions), majority, untuned
    partial                               tasks of which only a part was asked (LIMIT)

Scores are shares of 1, as those of scripts/finetune_teamlora.sh.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from run_summary import costs, main, tell

from llava_teamlora.cme.report import Tables, build_tables
from llava_teamlora.evaluation.overview import is_partial
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.score_files import SCORES
from llava_teamlora.evaluation.tables import Report

_TITLE = "CME's tasks in % ± standard error; Avg. is their mean"


def read_tables(run: Path) -> Tables | None:
    """The rows ``tuned``, ``untuned base`` and ``majority``, in Table 2's columns; None where no task was evaluated."""
    if not any((run / "evaluation" / name / SCORES).is_file() for name in ELEVEN):
        return None
    return build_tables([f"tuned={run}"], published=False)


def summarize(run: Path, tables: Tables | None, total_seconds: float) -> dict[str, Any]:
    """The JSON object: figures that were not measured are null."""
    tuned = tables.found.runs[0].files if tables else {}
    base = tables.found.untuned[0].files if tables and tables.found.untuned else {}
    tasks = {
        name: {
            "score": file.content["total"]["value"],
            "stderr": file.content["total"]["stderr"],
            "metric": file.content["metric"],
            "n": file.content["total"]["n"],
            "majority": file.content["baselines"]["majority"]["total"]["value"],
            "untuned": base[name].content["total"]["value"] if name in base else None,
        }
        for name, file in tuned.items()
    }
    return {
        "run": str(run),
        **averages(tables.reports["2"] if tables else None),
        **costs(run, [file.content for file in (*tuned.values(), *base.values())], total_seconds),
        "tasks": tasks,
        "partial": [name for name, file in tuned.items() if is_partial(file)],
    }


def averages(report: Report | None) -> dict[str, float | None]:
    """Of the run with its standard error, of the commonest answers and of the base."""
    cells = {} if report is None else {row.label: row.cells[-1] for row in (*report.runs, *report.baselines)}
    tuned = cells.get("tuned")
    shares = {label: None if cell is None else cell.value / 100 for label, cell in cells.items()}
    return {
        "average": shares.get("tuned"),
        "stderr": None if tuned is None or tuned.stderr is None else tuned.stderr / 100,
        "majority": shares.get("majority"),
        "untuned": shares.get("untuned base"),
    }


def tell_run(arguments: argparse.Namespace) -> None:
    """The run's rows beside its base's."""
    run = arguments.run
    tables = read_tables(run)
    summary = summarize(run, tables, arguments.total_seconds)
    report = replace(tables.reports["2"], title=_TITLE, intervals=False) if tables else None
    root = tables.found.runs[0].data_root() if tables else ""
    commands = {
        "talk to it": f"llava-teamlora cli {run}",
        "evaluate it": f"llava-teamlora evaluate run cme --model {run}{root}",
        "beside others": f"llava-teamlora cme report {run} OTHER_RUN   (the paper's tables)",
    }
    tell(run, summary, report, commands)


if __name__ == "__main__":
    raise SystemExit(main(tell_run))
