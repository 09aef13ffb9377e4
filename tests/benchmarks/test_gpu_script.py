"""``benchmarks/gpu.sh``: its command lines are ones that the program takes, and a part that fails stops no other."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_teamlora.bench import commands
from llava_teamlora.bench.settings import DecodeSettings, StepSettings
from llava_teamlora.bench.whole_settings import MemorySettings, TrainSettings

ROOT = Path(__file__).parents[2]
BENCHES = ("trace", "memory", "train", "step", "mlp", "decode", "figure")

# Stands for python: notes what it is called with, and writes what a bench would; one bench can be made to fail.
STUB = """#!{python}
import json, os, pathlib, sys
words = sys.argv[sys.argv.index("bench"):]
with open({calls!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if words[1] == os.environ.get("FAILING"):
    sys.exit(1)
out = pathlib.Path(words[words.index("--out") + 1])
if words[1] != "figure":
    out.mkdir(parents=True)
    for ending in ("json", "png"):
        (out / f"{{words[1]}}.{{ending}}").write_text("{{}}")
"""


def run_script(folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[argparse.Namespace]]:
    """The script with a stub for python; its result, and what it called it with, as the program reads it."""
    import json

    folder.mkdir(exist_ok=True)
    stub, calls = folder / "python", folder / "calls"
    stub.write_text(STUB.format(python=sys.executable, calls=str(calls)))
    stub.chmod(0o755)
    variables = {"PYTHON": str(stub), "OUT": str(folder / "out"), "WORK": str(folder / "work"), **variables}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh")]
    result = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers(required=True))
    return result, [parser.parse_args(json.loads(line)) for line in calls.read_text().splitlines()]


@pytest.mark.parametrize("size", ["7b", "tiny"])
def test_every_command_line_is_one_that_the_program_takes(size: str, tmp_path: Path) -> None:
    result, calls = run_script(tmp_path, SIZE=size, DEVICE="cuda" if size == "7b" else "cpu")
    assert result.returncode == 0, result.stderr
    benches = [call for call in calls if hasattr(call, "bench")]
    assert {call.bench for call in benches} == set(BENCHES) - {"figure"} and len(calls) - len(benches) == 2
    for call in benches:
        settings = commands.settings_of(call)
        assert call.quick == (size == "tiny")
        if isinstance(settings, (TrainSettings, MemorySettings)):
            assert settings.size == size and settings.tokens == (700 if size == "7b" else 48)
        elif isinstance(settings, DecodeSettings) and settings.model is not None:
            assert settings.model == size and settings.over == "base" and "teamlora-packed" in settings.variants
        elif isinstance(settings, StepSettings) and size == "7b":
            assert (settings.d_in, settings.d_out) == (4096, 11008)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"train.json", "ks.json", "ks.png", "decode.json", "answer.json"} <= written


def test_a_part_that_fails_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    result, calls = run_script(tmp_path, SIZE="tiny", DEVICE="cpu", FAILING="step")
    assert result.returncode == 1 and "not measured: step" in result.stderr
    assert [call.bench for call in calls if hasattr(call, "bench")][-1] == "train"  # ks, the last part
    assert (tmp_path / "out" / "ks.json").is_file() and not (tmp_path / "out" / "step.json").exists()


def test_parts_can_be_chosen(tmp_path: Path) -> None:
    result, calls = run_script(tmp_path, SIZE="tiny", PARTS="mlp")
    assert result.returncode == 0 and [call.bench for call in calls] == ["mlp"]
