"""DeepSpeed's ZeRO-2 and ZeRO-3 on two processes on the CPU, through the command line.

Not part of the usual run: DeepSpeed is an extra, each of its runs takes about half a minute, and its first use on a
machine compiles for another. ``pip install -e .[train]``, then ``pytest -m deepspeed``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model, read_run_card

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.deepspeed

ROOT = Path(__file__).parents[2]
ZERO2, ZERO3 = (("--deepspeed", str(ROOT / "scripts" / f"{stage}.json")) for stage in ("zero2", "zero3"))
# Two processes with two samples each take the same steps as one with two times two.
TWO = ("--per_device_train_batch_size", "2", "--dropout", "0", "--save_total_limit", "9")
ONE = (*TWO, "--gradient_accumulation_steps", "2")
CLI = ("-m", "llava_teamlora.cli", "train")


def launch(
    argv: list[str], *flags: str, processes: int = 2, program: tuple[str, ...] = CLI
) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [*launcher, *program, *argv, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=environment)


def assert_near(found: Path, expected: Path) -> None:
    """Same weights, whole, and as near as sums in another order are. What training gave is all there is in B."""
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys() and any("multi_modal_projector" in name for name in ours)
    for name, weight in theirs.items():
        assert ours[name].shape == weight.shape
        assert (ours[name] - weight).norm() < 1e-3 * weight.norm(), name


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder, device="cpu").model(input_ids=torch.tensor([[1, 5, 9, 7]])).logits


@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
@pytest.mark.parametrize("zero", [ZERO2, ZERO3], ids=["zero2", "zero3"])
def test_two_processes_equal_one(
    argv: list[str], trained: Callable[..., Path], zero: tuple[str, str], method: str, tmp_path: Path
) -> None:
    """Adapter and projector are gathered into every file, and are what one process trains on the same batches.

    Under ZeRO-3 the base is loaded in another way, after which other random numbers are drawn for the adapter: there
    the one process runs under ZeRO-3 too.
    """
    run, alone = tmp_path / "run", tmp_path / "alone"
    result = launch([*argv, "--method", method], *TWO, *zero)
    assert result.returncode == 0, result.stderr[-3000:]
    flags = (*ONE, "--method", method, "--output_dir", str(alone))
    if zero == ZERO2:
        trained(*flags)
    else:
        result = launch(argv, *flags, *zero, processes=1)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_near(run, alone)
    assert torch.equal(logits(run), logits(run / "checkpoint-6"))
    torch.testing.assert_close(logits(run), logits(alone), rtol=1e-3, atol=1e-3)
    ours, theirs = (read_run_card(folder).results["validation_loss"] for folder in (run, alone))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_resumed_run_equals_a_straight_one(argv: list[str], tmp_path: Path) -> None:
    result = launch(argv, *TWO, *ZERO3)
    assert result.returncode == 0, result.stderr[-3000:]
    run, straight = tmp_path / "run", tmp_path / "straight"
    shutil.copytree(run, straight)
    # As after a crash past step 4: the run's end and its later checkpoint never came to be.
    shutil.rmtree(run / "checkpoint-6")
    for name in ("run.yaml", "adapter_model.safetensors"):
        (run / name).unlink()
    result = launch(argv, *TWO, *ZERO3)
    assert result.returncode == 0 and "Going on from" in result.stdout, result.stderr[-3000:]
    assert_near(run, straight)


UNGATHERED = """
import sys
from deepspeed.runtime.engine import DeepSpeedEngine
from llava_teamlora.cli import main

DeepSpeedEngine._zero3_consolidated_16bit_state_dict = lambda self, **options: None  # as if nobody gathered
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("method", ["teamlora", "lora"])
def test_saving_without_gathering_is_refused(argv: list[str], method: str, tmp_path: Path) -> None:
    """peft itself warns for LoRA, and writes the empty weights."""
    script = tmp_path / "ungathered.py"
    script.write_text(UNGATHERED)
    result = launch(argv, "--method", method, *TWO, *ZERO3, program=(str(script),))
    assert result.returncode != 0
    assert "checkpoint-2: cannot be saved" in result.stderr and "is empty (shape [0])" in result.stderr, result.stderr
    assert not list((tmp_path / "run").glob("**/adapter_model.safetensors"))
