"""What run folders of one and of two processes have in common."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model

# Two processes with two samples each take the same steps as one with two times two.
TWO = ("--per_device_train_batch_size", "2", "--dropout", "0", "--save_total_limit", "9")
ONE = (*TWO, "--gradient_accumulation_steps", "2")


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


def logged(folder: Path, name: str) -> list[float]:
    """All values of that name in a run's log."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in history if name in entry]
