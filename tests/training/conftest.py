"""A data set of a few drawn pictures and a way to train on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process_pair import ProcessPair

from llava_teamlora.training.run import train
from llava_teamlora.training.trainer import LlavaTrainer


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


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Validation losses to come, by step."""
    planned: dict[int, float] = {}
    real = LlavaTrainer.evaluation_loop

    def loop(self: LlavaTrainer, *args: Any, **kwargs: Any) -> Any:
        output = real(self, *args, **kwargs)
        output.metrics["eval_loss"] = planned[self.state.global_step]
        return output

    monkeypatch.setattr(LlavaTrainer, "evaluation_loop", loop)
    return planned


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPair]:
    """Two processes that train together."""
    pair = ProcessPair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.stop()


@pytest.fixture
def split(colors: tuple[Path, Path]) -> str:
    """16 of the drawn conversations: two with pictures, two without, and so on. A data file.

    In this order, two samples a process, the first process sees pictures in every step and the second none at all.
    """
    rows = json.loads(colors[0].read_text())
    pictures, texts = ([row for row in rows if ("image" in row) is whether] for whether in (True, False))
    mixed = [row for at in range(0, 8, 2) for row in (*pictures[at : at + 2], *texts[at : at + 2])]
    path = colors[0].with_name("split.json")
    path.write_text(json.dumps(mixed))
    return str(path)
