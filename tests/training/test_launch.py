"""Under torchrun: how a run ends when one process fails, and when it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from llava_teamlora.training.folder import last_checkpoint

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TWO = ("--per_device_train_batch_size", "2", "--group_by_modality_length", "False")
PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import plans
from llava_teamlora.cli import main

with plans.in_file_order(), plans.gone_when_training_begins(sys.argv[1]):
    sys.exit(main(["train", *sys.argv[2:]]))
"""


def start(program: list[str], *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*LAUNCHER, *program, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_an_error_on_one_process_ends_all(argv: list[str], colors: tuple[Path, Path], tmp_path: Path) -> None:
    """In the second of six steps the second process looks for a picture that has gone since all were checked."""
    # Of the batches 0 1 | 2 3 | 4 5 | 6 7 the fourth is the second of the second process.
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = start([str(script), str(colors[1] / "7.png")], *argv, *TWO)
    _, printed = process.communicate(timeout=300)
    assert process.returncode != 0
    said = [line for line in printed.splitlines() if line.startswith("error:") and "7.png" in line]
    assert len(said) == 1 and said[0].startswith("error: process 1: "), printed
    assert "another process has gone" in printed and "[rank0]: Traceback" not in printed, printed
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_sigterm_saves_and_the_run_goes_on(argv: list[str], tmp_path: Path) -> None:
    """As a cluster ends a job: the launcher is told, tells its processes, and gives them half a minute."""
    flags = [*argv, *TWO, "--save_steps", "1000"]
    process = start(["-m", "llava_teamlora.cli", "train"], *flags, "--num_train_epochs", "500")
    assert process.stdout is not None
    for line in process.stdout:
        if "'loss'" in line:
            break
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    printed, _ = process.communicate(timeout=120)
    assert "Interrupted at step" in printed and time.monotonic() - told < 60
    saved = last_checkpoint(tmp_path / "run")
    assert saved is not None and int(saved.name.removeprefix("checkpoint-")) < 3000
    weights = load_file(saved / "adapter_model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= {path.name for path in saved.iterdir()}
