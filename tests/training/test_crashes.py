"""Nothing half-written is ever taken for whole: kill -9, a full disk, at every point of a save."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crashes import watching
from safetensors.torch import load_file

from llava_teamlora import files
from llava_teamlora.checkpoint import load_model
from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.folder import last_checkpoint
from llava_teamlora.training.run import train

Train = Callable[..., Path]
WORKER = Path(__file__).with_name("crash_worker.py")
TIMES = re.compile(r"runtime|per_second|seconds|peak")


def equal(one: Any, other: Any) -> bool:
    """Equality to the bit, of whatever a checkpoint holds."""
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool((one == other).all()) and one.shape == other.shape
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other or one != one


def content(folder: Path) -> dict[str, Any]:
    """All that a run or a checkpoint is: weights, optimizer, schedule, random numbers, log, figures; but for times.

    The line that the Trainer logs when it stops is of one leg.
    """
    found: dict[str, Any] = {"weights": load_file(folder / "adapter_model.safetensors")}
    for path in [*folder.glob("*.pt"), *folder.glob("*.pth")]:
        found[path.name] = torch.load(path, weights_only=False)
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    found["log"] = [
        {name: entry[name] for name in entry if not TIMES.search(name)}
        for entry in history
        if "train_runtime" not in entry
    ]
    results = read_run_card(folder).results
    found["results"] = {name: results[name] for name in results if not TIMES.search(name)}
    return found


def same_run(run: Path, straight: Path) -> bool:
    last = "checkpoint-6"
    return equal(content(run), content(straight)) and equal(content(run / last), content(straight / last))


def command(argv: list[str], run: Path, **misfortune: int) -> dict[str, Any]:
    return {"argv": [*argv, "--output_dir", str(run)], **misfortune}


def misfortunes(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the worker."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    worker = [sys.executable, str(WORKER)]
    done = subprocess.run(
        worker, input=json.dumps(commands), capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


THOROUGH = pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.heavy)])


@THOROUGH
def test_whatever_a_kill_leaves_is_gone_on_from(
    thorough: bool, trained: Train, argv: list[str], tmp_path: Path
) -> None:
    """Before each change to the run folder, the folder is what a kill -9 would leave at that moment."""
    flags = ("--dataloader_num_workers", "1", "--eval_steps", "2", "--load_best_model_at_end", "True")
    run, seen, moments = tmp_path / "run", dict[Any, Path](), 0  # seen: one folder of each kind of state

    def look() -> None:
        nonlocal moments
        moments += 1
        last = last_checkpoint(run)
        if last is not None:
            content(last)  # whole, or it would raise
        aside = {path.name for path in run.glob(".incomplete/*/*")}
        names = ("adapter_model.safetensors", "trainer_state.json") if thorough else ("adapter_model.safetensors",)
        key = (last, *(path.name for path in run.glob(".incomplete")), *((run / name).exists() for name in names))
        if thorough:
            key = (*key, bool(aside), "run.yaml" in aside)
        if run.is_dir() and key not in seen:
            seen[key] = tmp_path / f"left{len(seen)}"
            shutil.copytree(run, seen[key])

    with watching(run, look):
        trained(*flags)
    assert moments > 50 and len(seen) > 5
    finished = [left for left in seen.values() if (left / "run.yaml").exists()]
    assert not finished  # the card is the last change of all
    for left in seen.values():
        before = last_checkpoint(left)
        assert train([*argv, *flags, "--output_dir", str(left)]) == 0
        assert same_run(left, run), (left, before)
        assert not {path.name for path in left.iterdir() if path.name.startswith(".")}


@THOROUGH
def test_killed_processes_go_on(thorough: bool, trained: Train, argv: list[str], tmp_path: Path) -> None:
    """The same with true kills: in a checkpoint after the first, and at the end of the run."""
    straight = trained("--output_dir", str(tmp_path / "straight"))
    moments = 0

    def count() -> None:
        nonlocal moments
        moments += 1

    with watching(tmp_path / "counted", count):
        trained("--output_dir", str(tmp_path / "counted"))
    points = [moments * share // 16 for share in (range(1, 16) if thorough else (7, 15))]
    outcomes = misfortunes([command(argv, tmp_path / f"killed{at}", kill_at=at) for at in points])
    for at, outcome in zip(points, outcomes, strict=True):
        assert outcome["status"] == -9, outcome
        killed = tmp_path / f"killed{at}"
        assert not (killed / "run.yaml").exists()
        with pytest.raises(UserError):
            load_model(killed, device="cpu")
        assert train([*argv, "--output_dir", str(killed)]) == 0
        assert same_run(killed, straight)


@THOROUGH
def test_a_full_disk_at_any_file_of_a_checkpoint(
    thorough: bool, trained: Train, argv: list[str], tmp_path: Path
) -> None:
    """Each attempt comes one file further; the last has room enough."""
    straight = trained("--output_dir", str(tmp_path / "straight"), "--save_total_limit", "9")
    sizes = sorted({path.stat().st_size for path in (straight / "checkpoint-4").iterdir()})
    limits = [size - 1 for size in sizes if size > 1000]  # less is written so early that Python itself would fail
    limits = limits if thorough else [limits[0], limits[len(limits) // 2], limits[-1]]
    run = tmp_path / "run"
    outcomes = misfortunes([command(argv, run, step=4, limit=limit) for limit in limits])
    for outcome in outcomes:
        assert outcome["status"] == 1, outcome
        assert re.search(r"error: .*checkpoint-4: cannot be saved \(.*; checkpoint-2 is whole", outcome["output"]), (
            outcome
        )
        assert "Traceback" not in outcome["output"]
    assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
    assert train(argv) == 0 and same_run(run, straight)


def test_a_full_disk_at_the_end_of_a_run(trained: Train, argv: list[str], tmp_path: Path) -> None:
    straight = trained("--output_dir", str(tmp_path / "straight"))
    sizes = {
        name: (straight / name).stat().st_size for name in ("adapter_model.safetensors", "tokenizer.json", "run.yaml")
    }
    run = tmp_path / "run"
    outcomes = misfortunes([command(argv, run, step=-1, limit=size - 1) for size in sizes.values()])
    for outcome in outcomes:
        assert outcome["status"] == 1 and "Traceback" not in outcome["output"], outcome
        assert "error: " in outcome["output"] and not (run / "run.yaml").exists(), outcome
    assert "the run's end cannot be saved" in outcomes[0]["output"] and "checkpoint-6 is whole" in outcomes[0]["output"]
    assert train(argv) == 0 and same_run(run, straight)


@pytest.mark.parametrize("number", range(1, 5))
def test_a_file_is_whole_or_not_there(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call fails, the former content stays and nothing is left beside it."""
    path = tmp_path / "file.json"
    write_atomically(path, "former")
    calls = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(files.tempfile, "mkstemp", failing(files.tempfile.mkstemp))
    for name in ("fsync", "chmod", "replace"):
        monkeypatch.setattr(files.os, name, failing(getattr(os, name)))
    with pytest.raises(UserError, match=r"file.json: cannot be written \(No space left on device\)"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_text() == "former" and [one.name for one in tmp_path.iterdir()] == ["file.json"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not leave an empty file under a whole checkpoint's name, nor a card beside an empty adapter."""
    synced: set[tuple[int, int]] = set()
    real_sync, real_rename = os.fsync, Path.rename

    def sync(handle: int) -> None:
        status = os.fstat(handle)
        synced.add((status.st_ino, status.st_size))
        real_sync(handle)

    def rename(path: Path, target: Path) -> Path:
        if target.name.startswith("checkpoint-"):
            unsynced = [file.name for file in path.iterdir() if (file.stat().st_ino, file.stat().st_size) not in synced]
            assert not unsynced
            renamed.append(target.name)
        return real_rename(path, target)

    renamed: list[str] = []
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    run = trained()
    assert renamed == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    files_of_run = [path for path in run.iterdir() if path.is_file()]
    assert all((path.stat().st_ino, path.stat().st_size) in synced for path in files_of_run)
