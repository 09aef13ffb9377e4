"""A sweep as a user runs it: the page's own example, with the real trainer and evaluation, shortened."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llava_teamlora.cli import main
from llava_teamlora.sweep import flags
from llava_teamlora.sweep.evaluation import read_evaluation
from llava_teamlora.sweep.grid import read_grid
from llava_teamlora.sweep.reports import check_reports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sweeps.md"
SHIPPED = sorted((ROOT / "scripts" / "sweeps").glob("*.yaml"))


def example(tmp_path: Path) -> Path:
    """The page's YAML with fewer steps and questions, in folders of its own."""
    block = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    text = (
        block[1].replace("playground/data/easy-vqa", f"{tmp_path}/easy-vqa").replace("runs/my-sweep", f"{tmp_path}/out")
    )
    content = yaml.safe_load(text)
    base = content["base"]
    # The config names the data where the page's preparation puts it.
    prepared = {name: f"{tmp_path}/easy-vqa/{name}.json" for name in ("train", "validation")}
    base |= {"data_path": prepared["train"], "validation_data_path": prepared["validation"], "eval_strategy": "no"}
    base |= {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}
    content["evaluate"] |= {"limit": 6, "device": "cpu"}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_the_pages_example_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "scripts/easy_vqa_data.py", "--print_image_folder"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("IMAGES", subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    assert main(["sweep", str(example(tmp_path)), "--jobs", "1", "--only", "TeamLoRA,seed=1"]) == 0
    cell = tmp_path / "out" / "TeamLoRA,seed=1"
    assert (cell / "run.yaml").is_file() and (cell / "loss_curve.png").is_file()
    scores = json.loads((cell / "evaluation" / "easy_vqa" / "scores.json").read_text())
    record = {one["name"]: one for one in json.loads((tmp_path / "out" / "sweep.json").read_text())["cells"]}
    assert {name: one["status"] for name, one in record.items()} == {
        "untuned": "waiting", "TeamLoRA,seed=0": "waiting", "TeamLoRA,seed=1": "done", "LoRA,seed=0": "waiting",
        "LoRA,seed=1": "waiting",
    }  # fmt: skip
    assert record["TeamLoRA,seed=1"]["scores"]["easy_vqa"] == pytest.approx(100 * scores["total"]["value"])
    assert "240,064" in (tmp_path / "out" / "results.md").read_text(), "TeamLoRA's parameters on the tiny base"
    assert "prepare: done" in capsys.readouterr().out


def test_every_shipped_grid_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As --dry_run does it, with one parser for all of them: it takes seconds to start."""
    assert len(SHIPPED) >= 6
    monkeypatch.chdir(ROOT)
    with monkeypatch.context() as environment:
        for name in ("MODEL", "DATA", "EVAL"):
            environment.delenv(name, raising=False)
        assert main(["sweep", "scripts/sweeps/cme_table2_7b.yaml", "--dry_run"]) == 1
    for name in ("MODEL", "DATA", "EVAL"):
        monkeypatch.setenv(name, "somewhere")
    cells = []
    for path in SHIPPED:
        grid = read_grid(path)
        assert grid.evaluate is not None
        check_reports(grid, read_evaluation(grid.evaluate, str(path)))
        cells += [flags.train_words(cell, grid.out) for cell in grid.cells]
    answer = flags._asked({"cells": cells, "assume_gpu": True}, {})
    assert [found["error"] for found in answer["cells"] if "error" in found] == []


def test_table_2_has_the_papers_rows() -> None:
    grid = read_grid(ROOT / "scripts" / "sweeps" / "cme_table2.yaml")
    methods = [cell.flags["method"] for cell in grid.cells]
    assert methods == [
        "prompt_tuning", "ia3", "lora", "lora", "adalora", "moslora", "hydralora", "moelora", "teamlora", "teamlora",
    ]  # fmt: skip
    alone = read_grid(ROOT / "scripts" / "sweeps" / "cme_scale.yaml")
    assert [p.creates[0].rpartition("-")[2] for p in alone.prepare[1:]] == [
        "10.jsonl", "20.jsonl", "40.jsonl", "60.jsonl", "80.jsonl", "100.jsonl",
    ]  # fmt: skip
    assert all("{" not in preparation.run for preparation in alone.prepare)
