"""The validation loss: what it is the mean of, and that every checkpoint's log holds that of its step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from process_pair import ProcessPair, succeeded
from run_folders import TWO, logged

from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.validation import MeanLoss, best_validation

Train = Callable[..., Path]
STILL = ("--learning_rate", "0", "--mm_projector_lr", "0", "--max_steps", "1", "--model_max_length", "120")


@pytest.fixture
def uneven(colors: tuple[Path, Path]) -> tuple[str, ...]:
    """Flags of 24 conversations with answers of 1 to 24 words, one of them all cut off."""
    rows = json.loads(colors[0].read_text())
    for index, row in enumerate(rows):
        row["conversations"][1]["value"] = " ".join(["red", "yes", "no"] * 8)[: 4 * index + 3]
    text = next(row for row in rows[5:] if "image" not in row)
    text["conversations"][0]["value"] = "what color is it? " * 60
    path = colors[0].with_name("uneven.json")
    path.write_text(json.dumps(rows))
    return ("--validation_data_path", str(path))


def test_the_loss_is_the_mean_over_all_trained_tokens(trained: Train, uneven: tuple[str, ...], tmp_path: Path) -> None:
    found = []
    for size in ("1", "4", "11"):  # of 24: the last batch of 11 has 2
        flags = ("--per_device_eval_batch_size", size, "--dataloader_drop_last", "True")
        found += logged(trained(*STILL, *uneven, *flags, "--output_dir", str(tmp_path / size)), "eval_loss")
    assert len(found) == 3 and found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)


@pytest.mark.parametrize("size", ["5", "7"])
def test_two_processes_validate_each_sample_once(
    pair: ProcessPair, argv: list[str], trained: Train, uneven: tuple[str, ...], size: str, tmp_path: Path
) -> None:
    """24 samples in rounds of 10 or 14: the last round is filled up with samples that have had their turn."""
    flags = [*argv, *STILL, *uneven, *TWO, "--per_device_eval_batch_size", size]
    succeeded(pair.train(flags))
    alone = trained(*STILL, *uneven, "--per_device_eval_batch_size", "4", "--output_dir", str(tmp_path / "alone"))
    assert logged(tmp_path / "run", "eval_loss") == pytest.approx(logged(alone, "eval_loss"), rel=1e-5)


def test_an_epoch_is_validated_before_its_last_step_is_saved(
    trained: Train, losses: dict[int, float], tmp_path: Path
) -> None:
    losses |= {6: 1.0, 12: 2.0}
    flags = ("--num_train_epochs", "2", "--save_steps", "6", "--save_total_limit", "9", "--eval_strategy", "epoch",
             "--load_best_model_at_end", "True")  # fmt: skip
    straight = trained(*flags, "--output_dir", str(tmp_path / "straight"))
    assert logged(straight / "checkpoint-6", "eval_loss") == [1.0] and logged(straight, "eval_loss") == [1.0, 2.0]
    shutil.copytree(straight / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    resumed = trained(*flags)
    assert [read_run_card(run).results["best_step"] for run in (straight, resumed)] == [6, 6]


def test_an_epoch_is_not_validated_before_its_delay(trained: Train, losses: dict[int, float]) -> None:
    losses |= {12: 2.0}
    run = trained("--num_train_epochs", "2", "--eval_strategy", "epoch", "--eval_delay", "2")
    assert logged(run, "eval_loss") == [2.0]


def test_the_loss_before_the_first_step_is_never_the_best(trained: Train, losses: dict[int, float]) -> None:
    losses |= {0: 0.5, 3: 2.0, 6: 3.0}
    run = trained("--eval_on_start", "True", "--eval_steps", "3", "--load_best_model_at_end", "True")
    assert read_run_card(run).results["best_step"] == 3 and logged(run, "eval_loss") == [0.5, 2.0, 3.0]
    assert best_validation([{"step": 0, "eval_loss": 1.0}]) is None


def test_only_the_samples_that_fill_up_the_last_round_lose_their_labels() -> None:
    def left(process: int, remainder: int, end: bool = True) -> int:
        state = SimpleNamespace(end_of_dataloader=end, remainder=remainder)
        accelerator: Any = SimpleNamespace(gradient_state=state, process_index=process)
        return int((MeanLoss(accelerator).without_repeated(torch.ones(4, 3)) > 0).all(dim=1).sum())

    assert [left(process, 6) for process in (0, 1, 2)] == [4, 2, 0]
    assert left(1, 0) == left(1, -1) == left(1, 2, end=False) == 4
