"""A data set of a few drawn pictures and a way to train on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from llava_teamlora.training.run import train

COLORS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


def write_data(folder: Path) -> tuple[Path, Path]:
    """24 conversations, a third of them text-only, and their pictures: (data.json, picture folder)."""
    images = folder / "images"
    images.mkdir(parents=True)
    rows = []
    for index in range(24):
        name, color = list(COLORS.items())[index % 4]
        turns = [{"from": "human", "value": "what color is it?"}, {"from": "gpt", "value": name}]
        row: dict = {"id": str(index), "conversations": turns}
        if index % 3:
            Image.new("RGB", (40 + index, 50), color).save(images / f"{index}.png")
            row["image"] = f"{index}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        rows.append(row)
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path, images


@pytest.fixture
def argv(tmp_path: Path, tiny: str) -> list[str]:
    """Flags of a six-step run on the embedded base (one epoch, four samples a step)."""
    data, images = write_data(tmp_path / "data")
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
