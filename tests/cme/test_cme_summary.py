"""The end of the CME script, on made-up runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scored_runs import FLAT, make_run, make_untuned, write_scores

from llava_teamlora.evaluation.paper import ELEVEN

SCRIPT = Path(__file__).parents[2] / "scripts" / "cme_summary.py"


def summary(run: Path) -> tuple[dict, str]:
    """The JSON object, after a look at the file, and what was printed."""
    command = [sys.executable, str(SCRIPT), str(run), "--total_seconds", "300.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((run / "summary.json").read_text()) == last
    return last, done.stdout


def test_all_eleven_tasks(tmp_path: Path) -> None:
    """(10 * 0.5 + 0.61) / 11 = 0.51; stderr sqrt(11) * 0.01 / 11 = 0.003015."""
    run = make_run(tmp_path / "run", {**FLAT, "nq": 0.61}, seconds=90, parameters=271)
    make_untuned(run / "evaluation" / "untuned", dict.fromkeys(ELEVEN, 0.1))
    found, printed = summary(run)
    assert found["average"] == pytest.approx(0.51) and found["stderr"] == pytest.approx(0.003015, abs=1e-6)
    assert found["majority"] == pytest.approx(0.25) and found["untuned"] == pytest.approx(0.1)
    assert list(found["tasks"]) == list(ELEVEN) and found["partial"] == []
    assert found["tasks"]["nq"] == (
        {"score": 0.61, "stderr": 0.01, "metric": "accuracy", "n": 100, "majority": 0.25, "untuned": 0.1}
    )
    assert found["tasks"]["tldr"]["metric"] == "ROUGE-L F1"
    figures = {name: found[name] for name in ("run", "train_seconds", "total_seconds", "trainable_parameters")}
    assert figures == {
        "run": str(run),
        "train_seconds": 90,
        "total_seconds": 300.5,
        "trainable_parameters": 271,
    }
    assert found["peak_mem_mib"] == 800  # that of the evaluation; training took 700
    for text in ("61.0", "± 1.0", "51.00", "untuned base", "majority", f"llava-teamlora cme report {run}"):
        assert text in printed
    assert "(paper)" not in printed


def test_a_part_of_the_questions_gives_no_average(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_scores(run / "evaluation", "arc", 0.7, {}, name="arc [partial: 20 of 60]", manifest=None)
    content = json.loads((run / "evaluation" / "arc" / "scores.json").read_text())
    content["manifest"] = {"model": {}, "cost": {"peak_mem_mib": 1}}
    (run / "evaluation" / "arc" / "scores.json").write_text(json.dumps(content))
    found, printed = summary(run)
    assert (found["average"], found["stderr"], found["majority"], found["untuned"]) == (None, None, None, None)
    assert found["partial"] == ["arc"] and found["tasks"]["arc"]["score"] == 0.7
    assert found["tasks"]["nq"]["untuned"] is None and "partial: 20 of 60" in printed


def test_without_an_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {})
    found, printed = summary(run)
    assert found["average"] is None and found["tasks"] == {} and found["peak_mem_mib"] == 700
    assert "Avg." not in printed and "evaluate run cme --model" in printed


def test_no_run(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--total_seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "is not a run folder" in done.stderr
