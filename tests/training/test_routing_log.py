"""routing.jsonl as a run writes it: what is counted, in which windows, resumed and over several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llava_teamlora.errors import UserError
from llava_teamlora.training.run import train

Train = Callable[..., Path]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "routing.jsonl").read_text(encoding="utf-8").splitlines()]


def counts(line: dict[str, Any]) -> dict[str, int]:
    return {name: group["count"] for name, group in line["groups"].items()}


def tag(argv: list[str], tasks: Callable[[int], Any]) -> None:
    """Give every record of the run's data a task."""
    data = Path(argv[argv.index("--data_path") + 1])
    rows = json.loads(data.read_text())
    for index, row in enumerate(rows):
        row["task"] = tasks(index)
    data.write_text(json.dumps(rows))


def assert_close(first: Any, second: Any, tolerance: float) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_close(first[name], second[name], tolerance)
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, two in zip(first, second, strict=True):
            assert_close(one, two, tolerance)
    elif isinstance(first, float):
        assert first == pytest.approx(second, rel=tolerance, abs=tolerance)
    else:
        assert first == second


def test_off_writes_nothing(trained: Train) -> None:
    run = trained("--max_steps", "2")
    assert not list(run.rglob("routing*"))


def test_neither_tags_nor_telemetry_change_the_training(trained: Train, argv: list[str], tmp_path: Path) -> None:
    flags = ("--max_steps", "4", "--balance_loss_coef", "0.1")
    plain = trained(*flags, "--output_dir", str(tmp_path / "plain"))
    tag(argv, lambda index: ("a", "b", None)[index % 3])
    watched = trained(*flags, "--routing_telemetry_steps", "2", "--output_dir", str(tmp_path / "watched"))
    first, second = (load_file(run / "adapter_model.safetensors") for run in (plain, watched))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_windows_and_groups(trained: Train, argv: list[str]) -> None:
    """One epoch of 24 records: every position is counted once, padding and validation never."""
    from transformers import AutoTokenizer

    from llava_teamlora.data.records import load_records
    from llava_teamlora.data.templates import get_template
    from llava_teamlora.data.tokenize import encode

    tag(argv, lambda index: ("even", None, "third one")[index % 3])
    run = trained("--routing_telemetry_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2")
    records = load_records(argv[argv.index("--data_path") + 1])
    tokenizer = AutoTokenizer.from_pretrained(argv[1])
    expected = dict.fromkeys(("all", "image", "text", "answer", "task/even", "task/third one"), 0)
    for record in records:
        encoded = encode(get_template("v1").segments(record.turns), tokenizer)
        text, image = len(encoded.input_ids) - encoded.images, 16 * encoded.images
        added = {"all": text + image, "image": image, "text": text, "answer": encoded.trained_tokens}
        for name, number in {**added, f"task/{record.task}": text + image}.items():
            if name in expected:
                expected[name] += number
    written = lines(run)
    assert [(line["step"], line["steps"]) for line in written] == [(4, 4)] * 12 + [(6, 2)] * 12
    assert all(line["format"] == 1 and line["adapter"] == "default" and line["k"] == 4 for line in written)
    assert written[0]["layer"] == "model.language_model.layers.0.mlp.gate_proj"
    for first, second in zip(written[:12], written[12:], strict=True):
        assert first["layer"] == second["layer"]
        both = [counts(first), counts(second)]
        assert {name: sum(count.get(name, 0) for count in both) for name in expected} == expected
        assert 0 < first["interaction"]["drift"] < second["interaction"]["drift"] < 0.1
        for group in (*first["groups"].values(), *second["groups"].values()):
            assert sum(group["load"]) == pytest.approx(1) and 0 < group["entropy_normalized"] <= 1


def test_checkpointing_and_accumulation_change_nothing(trained: Train, tmp_path: Path) -> None:
    base = ("--routing_telemetry_steps", "1", "--max_steps", "3", "--dropout", "0")
    runs = [
        trained(*base, *extra, "--output_dir", str(tmp_path / name))
        for name, extra in {
            "plain": (),
            "checkpointed": ("--gradient_checkpointing", "True"),
            "accumulated": ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
        }.items()
    ]
    first, second, third = map(lines, runs)
    assert_close(second, first, 1e-5)
    assert_close(third, first, 1e-3)


def test_resumed_equals_straight(trained: Train, argv: list[str], tmp_path: Path) -> None:
    """Resumed inside a window, in a folder whose file goes on past the checkpoint, and in an empty folder."""
    tag(argv, lambda index: "color" if index % 2 else None)
    extra = ("--routing_telemetry_steps", "3", "--save_total_limit", "9", "--report_to", "tensorboard")
    straight = trained(*extra, "--output_dir", str(tmp_path / "straight"))
    resumed = trained(*extra, "--output_dir", str(tmp_path / "resumed"))
    shutil.rmtree(resumed / "checkpoint-6")
    (resumed / "run.yaml").unlink()
    for file in (resumed / "routing.jsonl", tmp_path / "straight" / "checkpoint-4" / "routing.jsonl"):
        assert file.exists()
    with (resumed / "routing.jsonl").open("a") as file:
        file.write('{"format": 1, "step"')  # torn off by a crash
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copytree(straight / "checkpoint-4", moved / "checkpoint-4")
    for run in (resumed, moved):
        trained(*extra, "--output_dir", str(run))
        assert (run / "routing.jsonl").read_text() == (straight / "routing.jsonl").read_text()
        assert scalars(run) == scalars(straight)
    assert [entry["step"] for entry in scalars(straight)] == [3, 6]
    assert [line["step"] for line in lines(straight / "checkpoint-4")] == [3] * 12


def scalars(run: Path) -> list[dict[str, Any]]:
    """The log lines with routing scalars, without their times."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "routing/all/entropy" in entry]


def test_scalars_are_means_over_layers(trained: Train, argv: list[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tag(argv, lambda index: "what color")
    run = trained("--routing_telemetry_steps", "2", "--max_steps", "2", "--report_to", "tensorboard")
    (entry,) = scalars(run)
    written = lines(run)
    for group in ("all", "image", "text", "answer", "task/what color"):
        there = [line["groups"][group] for line in written if group in line["groups"]]
        expected = sum(values["entropy_normalized"] for values in there) / len(there)
        assert entry[f"routing/{group}/entropy"] == pytest.approx(expected, rel=1e-5)
        expected = sum(max(values["load"]) for values in there) / len(there)
        assert entry[f"routing/{group}/highest_load"] == pytest.approx(expected, rel=1e-5)
    drift = sum(line["interaction"]["drift"] for line in written) / len(written)
    assert entry["routing/interaction_drift"] == pytest.approx(drift, rel=1e-5)
    (folder,) = {path.parent for path in run.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    (event,) = events.Scalars("train/routing/interaction_drift")
    assert (event.step, event.value) == (2, pytest.approx(drift, rel=1e-5))


def test_a_checkpoint_without_telemetry_is_refused(trained: Train, argv: list[str]) -> None:
    run = trained("--max_steps", "3", "--save_steps", "2", "--routing_telemetry_steps", "1", "--save_total_limit", "9")
    shutil.rmtree(run / "checkpoint-3")
    (run / "run.yaml").unlink()
    state = run / "checkpoint-2" / "routing_state.json"
    again = [*argv, "--max_steps", "3", "--routing_telemetry_steps", "1", "--save_total_limit", "9"]
    state.write_text(state.read_text().replace("layers.0", "layers.9"))
    with pytest.raises(UserError, match="routing_state.json: cannot be gone on from .*of other layers"):
        train(again)
    state.write_text("{")
    with pytest.raises(UserError, match="routing_state.json: cannot be gone on from"):
        train(again)


def test_what_cannot_be_watched_is_refused(argv: list[str], tmp_path: Path) -> None:
    on = ["--routing_telemetry_steps", "1"]
    with pytest.raises(UserError, match="method lora has no router to watch; teamlora, "):
        train([*argv, *on, "--method", "lora"])
    with pytest.raises(UserError, match="--routing_telemetry_steps -1 must not be negative"):
        train([*argv, "--routing_telemetry_steps", "-1"])
    tag(argv, lambda index: "  ")
    with pytest.raises(UserError, match=r"record 0 \(id 0\): 'task' must be a name"):
        train([*argv, *on])
    data = Path(argv[argv.index("--data_path") + 1])
    rows = json.loads(data.read_text())
    data.write_text(json.dumps([{**rows[0], "task": f"task {i}"} for i in range(101)]))
    with pytest.raises(UserError, match=r"data.json: has 101 different 'task' tags"):
        train([*argv, *on])
    assert not (tmp_path / "run").exists()


def test_two_processes_equal_one(trained: Train, argv: list[str], tmp_path: Path) -> None:
    """The same samples a step, in one process one after the other: the same numbers, written once."""
    tag(argv, lambda index: "color" if index % 2 else None)
    flags = [
        "--routing_telemetry_steps",
        "2",
        "--max_steps",
        "3",
        "--dropout",
        "0",
        "--per_device_train_batch_size",
        "2",
    ]
    one = trained(*flags, "--gradient_accumulation_steps", "2", "--output_dir", str(tmp_path / "one"))
    two = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "llava_teamlora.cli", "train", *argv, *flags, "--output_dir", str(two)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in lines(two)] == [2] * 12 + [3] * 12
    for first, second in zip(lines(one), lines(two), strict=True):
        assert_close(second, first, 1e-3)
