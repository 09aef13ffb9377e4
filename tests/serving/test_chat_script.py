"""scripts/chat.sh: which model it takes, and what it starts."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown(*arguments: str, **variables: str) -> list[str]:
    """Words of the command that the script would run."""
    command = ["bash", str(ROOT / "scripts/chat.sh"), *arguments]
    environment = {**os.environ, "SHOW": "1", **variables}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return shlex.split(result.stdout)


def make_run(folder: Path, time: int, weights: str | None) -> None:
    folder.mkdir(parents=True)
    (folder / "run.yaml").touch()
    os.utime(folder / "run.yaml", (time, time))
    if weights is not None:
        (folder / weights).touch()


def test_the_newest_finished_run_is_taken(tmp_path: Path) -> None:
    make_run(tmp_path / "old", 1_000, "adapter_model.safetensors")
    make_run(tmp_path / "in full", 3_000, "model-00001-of-00002.safetensors")
    make_run(tmp_path / "a newer", 2_000, "adapter_model.safetensors")
    make_run(tmp_path / "unfinished", 9_000, None)
    command = shown("--port", "7861", RUNS=str(tmp_path))
    assert command == ["llava-teamlora", "chat", str(tmp_path / "in full"), "--port", "7861"]


def test_without_runs_the_embedded_model_is_taken(tmp_path: Path) -> None:
    assert shown(RUNS=str(tmp_path)) == ["llava-teamlora", "chat", str(ROOT / "playground/tiny")]
    assert shown(RUNS=str(tmp_path), MODEL="runs/mine")[2] == "runs/mine"
