"""Where a run goes on, and when it is no finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.run_card import RUN_FILE
from llava_teamlora.training import run as run_module
from llava_teamlora.training.folder import drop_abandoned, rotate
from llava_teamlora.training.run import train
from llava_teamlora.training.trainer import LlavaTrainer
from llava_teamlora.training.validation import Validation

Train = Callable[..., Path]


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*"))


def make(run: Path, *steps: int) -> None:
    for step in steps:
        folder = run / f"checkpoint-{step}"
        folder.mkdir(exist_ok=True)
        (folder / RUN_FILE).touch()


def test_a_checkpoint_without_its_optimizer_is_refused(trained: Train, argv: list[str]) -> None:
    run = trained("--max_steps", "1")
    (run / RUN_FILE).unlink()
    (run / "checkpoint-1" / "optimizer.pt").unlink()
    for named in ((), ("--resume_from_checkpoint", "True"), ("--resume_from_checkpoint", str(run / "checkpoint-1"))):
        with pytest.raises(UserError, match="checkpoint-1: is not a whole checkpoint folder: it holds no state of the"):
            train([*argv, "--max_steps", "1", *named])


def test_the_checkpoint_just_written_is_kept(tmp_path: Path) -> None:
    make(tmp_path, 5, 10, 20)
    make(tmp_path, 12)
    rotate(tmp_path, 1, tmp_path / "checkpoint-12", tmp_path / "checkpoint-5")
    assert checkpoints(tmp_path) == [5, 12]
    make(tmp_path, 10, 20, 30)
    drop_abandoned(tmp_path, 10, tmp_path / "checkpoint-20")
    assert checkpoints(tmp_path) == [5, 10, 20]


@pytest.mark.parametrize(("limit", "kept"), [("1", [[4], [6]]), ("9", [[2, 4], [2, 4, 6]])])
def test_an_abandoned_leg_makes_room(
    limit: str, kept: list[list[int]], trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on from an older checkpoint: the first new one takes the place of those behind it."""
    run = trained("--save_total_limit", "9")
    (run / RUN_FILE).unlink()
    seen = []
    real = LlavaTrainer._save_checkpoint

    def save(self: LlavaTrainer, *args: Any) -> None:
        real(self, *args)
        seen.append(checkpoints(run))

    monkeypatch.setattr(LlavaTrainer, "_save_checkpoint", save)
    trained("--save_total_limit", limit, "--resume_from_checkpoint", str(run / "checkpoint-2"))
    assert seen == kept


@pytest.mark.parametrize("steps", [(), ("--max_steps", "2")])
def test_no_whole_batch_is_refused_before_a_model_is_loaded(
    argv: list[str], steps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_base", lambda *_: pytest.fail("a model was loaded"))
    flags = ("--dataloader_drop_last", "True", "--per_device_train_batch_size", "25")
    with pytest.raises(UserError, match="--dataloader_drop_last True: 24 samples make no whole batch of 25"):
        train([*argv, *flags, *steps])


def test_a_run_that_stops_early_is_not_finished(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(self: Validation, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True

    monkeypatch.setattr(Validation, "on_step_end", stop)
    with pytest.raises(UserError, match="training ended after 1 of 6 steps"):
        train(argv)
    assert not (tmp_path / "run" / RUN_FILE).exists()


def test_going_on_says_that_data_are_not_checked_again(trained: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("--max_steps", "1", "--check_data", "True")
    assert "not done again" not in capsys.readouterr().out
    (run / RUN_FILE).unlink()
    trained("--max_steps", "1", "--check_data", "True")
    assert "--check_data True: not done again" in capsys.readouterr().out
