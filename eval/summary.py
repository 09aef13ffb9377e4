"""The beginning and end of eval/all.sh and cme.sh: what is there to be run, and one JSON object of what came of it.

    python eval/summary.py ready CHECKED                     names of the benchmarks that are ready; stderr: the others
    python eval/summary.py done CHECKED --out OUT …          the JSON object

CHECKED is the output of ``llava-teamlora evaluate check --json``. It is written just before the run, so that scores and
exports older than it are of an earlier one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.overview import AVERAGE, CME_AVERAGE
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.report import build_report

PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
EXPORT = "export"


def why_not(checked: dict[str, Any]) -> str:
    """What a benchmark lacks, in one line."""
    if checked["absent"]:
        first, *more = checked["absent"]
        remedy = "evaluate build makes it" if first["built"] else first["source"]
        return f"{first['path']} is missing ({remedy})" + (f", and {len(more)} more" if more else "")
    for state, problem in (("absent", "are missing"), ("empty", "have 0 bytes")):
        pictures = checked[f"{state}_pictures"]
        if pictures["count"]:
            return f"{pictures['count']} of {checked['pictures']} pictures {problem}, first {pictures['first'][0]}"
    return checked["error"]


def outcome(name: str, checked: dict[str, Any], out: Path, since_ns: int, status: int) -> dict[str, Any]:
    """What came of one benchmark: its ``state`` is scored, exported, answered, missing or failed."""
    if not checked["ready"]:
        return {"state": "missing", "why": why_not(checked)}
    scores = out / name / SCORES
    if is_new(scores, since_ns):
        content = read_json_object(scores)
        total = content["total"]
        figures = {key: total[key] and round(total[key] * total["maximum"], 4) for key in ("value", "stderr")}
        return {"state": "scored", "name": content["name"], **figures, "maximum": total["maximum"], "n": total["n"]}
    files = sorted(path for path in (out / name / EXPORT).rglob("*") if path.is_file() and is_new(path, since_ns))
    if files:
        return {"state": "exported", "files": [str(path) for path in files]}
    answers = out / name / PREDICTIONS
    if is_new(answers, since_ns) or (status == 0 and answers.is_file()):
        return {"state": "answered", "answers": str(answers)}
    return {"state": "failed"}


def is_new(path: Path, since_ns: int) -> bool:
    """Whether a file is there and was written since."""
    return path.is_file() and path.stat().st_mtime_ns >= since_ns


def average_of(out: Path, asked: Collection[str]) -> float | None:
    """Table 6's average of the scores in a folder, or, where CME's tasks alone were asked for, Table 2's.

    None where one of its benchmarks is missing or partial.
    """
    if not any(out.glob(f"*/{SCORES}")):
        return None
    report = build_report([str(out)], published=False)
    names = [column.name for column in report.columns]
    average = CME_AVERAGE if set(asked) <= set(ELEVEN) else AVERAGE
    cell = report.runs[0].cells[names.index(average)] if average in names else None
    return None if cell is None else cell.value


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ready", "done"))
    parser.add_argument("checked", type=Path)
    parser.add_argument("--out", type=Path, help="folder with one folder a benchmark")
    parser.add_argument("--model", help="who answered")
    parser.add_argument("--status", type=int, default=0, help="exit status of the run")
    parser.add_argument("--seconds", type=float, help="of the whole chain")
    arguments = parser.parse_args()
    try:
        checked = read_json_object(arguments.checked)["benchmarks"]
        if arguments.what == "ready":
            for name in (name for name in checked if not checked[name]["ready"]):
                print(f"not there: {name}: {why_not(checked[name])}", file=sys.stderr)
            print(" ".join(name for name in checked if checked[name]["ready"]))
            return 0
        since = arguments.checked.stat().st_mtime_ns
        found = {name: outcome(name, checked[name], arguments.out, since, arguments.status) for name in checked}
        average = average_of(arguments.out, found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    head = {"model": arguments.model, "out": str(arguments.out), "seconds": arguments.seconds}
    print(json.dumps({"benchmarks": found, "average": average, **head}, ensure_ascii=False), flush=True)
    return 1 if any(result["state"] == "failed" for result in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
