"""A data set of a few drawn pictures and a way to train on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_teamlora.training.run import train


@pytest.fixture
def argv(tmp_path: Path, tiny: str, colors: tuple[Path, Path]) -> list[str]:
    """Flags of a six-step run on the embedded base (one epoch, four samples a step)."""
    data, images = colors
    return [
        "--model_name_or_path", tiny, "--data_path", str(data), "--image_folder", str(images),
        "--validation_data_path", str(data), "--output_dir", str(tmp_path / "run"), "--use_cpu", "True",
        "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--mm_projector_lr", "1e-4",
        "--logging_steps", "1", "--save_steps", "2", "--group_by_modality_length", "True", "--report_to", "none",
        "--disable_tqdm", "True", "--dropout", "0.1",
    ]  # fmt: skip


@pytest.fixture
def trained(argv: list[str]) -> Callable[..., Path]:
    """Train with further flags and return the run folder."""

    def run(*extra: str) -> Path:
        flags = [*argv, *extra]
        assert train(flags) == 0
        return Path(flags[len(flags) - 1 - flags[::-1].index("--output_dir") + 1])

    return run
