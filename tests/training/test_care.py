"""The run that does not disappoint: bad data, validation, the best checkpoint, what a finished run says of itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from process_pair import ProcessPair
from safetensors.torch import load_file

from llava_teamlora.data.records import load_records
from llava_teamlora.errors import UserError
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training import run as run_module
from llava_teamlora.training.curve import draw_curve
from llava_teamlora.training.data import hold_out
from llava_teamlora.training.run import train
from llava_teamlora.training.validation import best_validation

Train = Callable[..., Path]
Rows = list[dict[str, Any]]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, other = adapter(first), adapter(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def data_of(argv: list[str]) -> tuple[Path, Rows]:
    path = Path(argv[argv.index("--data_path") + 1])
    return path, json.loads(path.read_text())


def spoil(argv: list[str]) -> set[int]:
    """Break three records of the data: a picture missing, one cut off, one without turns. Their indices."""
    path, rows = data_of(argv)
    (path.parent / "images" / "1.png").unlink()
    cut = path.parent / "images" / "2.png"
    cut.write_bytes(cut.read_bytes()[:60])
    rows[6]["conversations"] = []
    path.write_text(json.dumps(rows))
    return {1, 2, 6}


def without(argv: list[str], option: str) -> list[str]:
    place = argv.index(option)
    return argv[:place] + argv[place + 2 :]


# Data ---------------------------------------------------------------------------------------------------------


def test_checked_data_is_trained_on(trained: Train, tmp_path: Path) -> None:
    run = trained("--check_data", "True", "--max_steps", "2")
    report = json.loads((run / "data_report.json").read_text())
    assert report["unusable_records"] == 0 and list(report["records"].values()) == [24]
    assert read_run_card(run).arguments.keys().isdisjoint({"check_data"})  # asked of one start, no property of the run
    plain = trained("--max_steps", "2", "--output_dir", str(tmp_path / "plain"))
    assert same(run, plain) and not (plain / "data_report.json").exists()


def test_bad_data_stop_a_run_before_it_begins(
    argv: list[str], trained: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spoil(argv)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_base", lambda *_: pytest.fail("a model was loaded"))
        with pytest.raises(UserError) as caught:
            train([*argv, "--check_data", "True"])
    message = str(caught.value)
    assert "3 of 24 records cannot be used (1 format, 1 picture missing, 1 picture broken)" in message
    assert "record 1 (id 1)" in message and "1.png: no such picture" in message and "--on_bad_sample skip" in message
    run = tmp_path / "run"
    assert [path.name for path in run.iterdir()] == ["data_report.json"] and str(run / "data_report.json") in message
    shown = capsys.readouterr().out
    assert "picture missing" in shown and "duplicate id" not in shown
    assert "--check_data" not in shown
    # What it has left does not stand in the way of starting anew, and does not outlive it.
    assert trained("--on_bad_sample", "skip", "--overwrite_output_dir", "True", "--max_steps", "1") == run


def test_skipping_trains_on_the_rest(argv: list[str], trained: Train, tmp_path: Path) -> None:
    path, rows = data_of(argv)
    bad = spoil(argv)
    clean = path.with_name("clean.json")
    clean.write_text(json.dumps([row for index, row in enumerate(rows) if index not in bad]))
    skipped = trained("--on_bad_sample", "skip")
    files = ("--data_path", str(clean), "--validation_data_path", str(clean))
    assert same(skipped, trained(*files, "--output_dir", str(tmp_path / "clean")))
    listed = json.loads((skipped / "skipped.json").read_text())
    assert {row["index"] for row in listed["records"]} == bad and listed["number"] == 3
    assert all(row["reason"] and row["file"] == str(path) for row in listed["records"])
    card = read_run_card(skipped)
    assert card.results["skipped_records"] == 6  # three of each of the two parts, which are one file here
    assert card.identity["left_out"] == {"data_path": "1-2,6", "validation_data_path": "1-2,6"}


def test_a_resumed_run_leaves_out_what_it_left_out_before(argv: list[str], trained: Train, tmp_path: Path) -> None:
    spoil(argv)
    images = data_of(argv)[0].parent / "images"
    flags = ("--on_bad_sample", "skip", "--save_total_limit", "9")
    straight = trained(*flags, "--output_dir", str(tmp_path / "straight"))
    resumed = tmp_path / "run"
    resumed.mkdir()
    shutil.copytree(straight / "checkpoint-2", resumed / "checkpoint-2")
    shutil.copy(images / "4.png", images / "2.png")  # mended meanwhile
    trained(*flags)
    assert same(straight, resumed)
    assert read_run_card(resumed).identity["left_out"] == read_run_card(straight).identity["left_out"]


def test_a_picture_that_breaks_later_is_named(argv: list[str], trained: Train, tmp_path: Path) -> None:
    spoil(argv)
    straight = trained("--on_bad_sample", "skip", "--save_total_limit", "9", "--output_dir", str(tmp_path / "straight"))
    shutil.copytree(straight / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    (data_of(argv)[0].parent / "images" / "5.png").unlink()
    with pytest.raises(UserError, match=r"record 5 \(id 5\).*5.png: no such picture"):
        train([*argv, "--on_bad_sample", "skip", "--save_total_limit", "9"])


def test_nothing_left_is_an_error(argv: list[str], tmp_path: Path) -> None:
    path, rows = data_of(argv)
    path.write_text(json.dumps([{**row, "conversations": []} for row in rows]))
    with pytest.raises(UserError, match=r"none of its records can be used \(--data_path\): 24 of 24 .* \(24 format\)"):
        train([*argv, "--on_bad_sample", "skip"])
    assert json.loads((tmp_path / "run" / "data_report.json").read_text())["unusable_records"] == 24


def test_a_stale_list_does_not_outlive_the_run_it_belongs_to(argv: list[str], trained: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("skipped.json", "data_report.json", ".run.yaml.abc123"):
        (run / name).write_text("stale")
    trained("--max_steps", "1")
    assert not {"skipped.json", "data_report.json", ".run.yaml.abc123"} & {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_processes_leave_out_the_same_and_count_together(argv: list[str], pair: ProcessPair, tmp_path: Path) -> None:
    spoil(argv)
    outcomes = pair.train(argv, "--on_bad_sample", "skip")
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    results = read_run_card(tmp_path / "run").results
    assert results["processes"] == 2 and results["samples"] == 21 + 3  # the last batches are filled up
    assert results["skipped_records"] == 6
    outcomes = pair.train(
        without(argv, "--validation_data_path"), "--check_data", "True", "--output_dir", str(tmp_path / "x")
    )
    assert all("3 of 24 records cannot be used" in (outcome.error or "") for outcome in outcomes)


# Validation ---------------------------------------------------------------------------------------------------


def test_a_share_is_held_out(argv: list[str], trained: Train, tmp_path: Path) -> None:
    records = load_records(data_of(argv)[0])
    train_part, held = hold_out(records, 0.25, seed=0)
    assert len(held) == 6 and sorted([*train_part, *held], key=lambda r: r.index) == records
    assert hold_out(records, 0.25, seed=0) == (train_part, held) != hold_out(records, 0.25, seed=1)
    assert len(hold_out(records, 0.001, seed=0)[1]) == 1
    with pytest.raises(UserError, match="leaves none to train on"):
        hold_out(records[:1], 0.5, seed=0)
    flags = [*without(argv, "--validation_data_path"), "--validation_split", "0.25"]
    assert train(flags) == 0
    results = read_run_card(tmp_path / "run").results
    assert results["samples"] == 18 and results["validation_loss"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--validation_split", "0.1"), "drop one"),
        (("--validation_split", "1"), "between 0 and 1"),
        (("--on_bad_sample", "ignore"), "is not error or skip"),
        (("--load_best_model_at_end", "True"), "needs validation during training: --eval_steps N"),
        (("--metric_for_best_model", "accuracy", "--eval_steps", "2"), "the validation loss is all there is"),
        (("--save_strategy", "best"), "say --load_best_model_at_end True"),
    ],
)
def test_contradictions_are_told(argv: list[str], flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train([*argv, *flags])


def test_validating_needs_something_to_validate_on(argv: list[str]) -> None:
    with pytest.raises(UserError, match="need --validation_data_path or --validation_split"):
        train([*without(argv, "--validation_data_path"), "--eval_steps", "2"])


BEST = ("--eval_steps", "1", "--save_steps", "2", "--load_best_model_at_end", "True", "--weight_decay", "0")


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("checkpoint-*"))


def test_a_run_ends_with_its_best_weights(trained: Train, losses: dict[int, float], tmp_path: Path) -> None:
    losses |= {1: 9.0, 2: 4.0, 3: 2.0, 4: 5.0, 5: 6.0, 6: 3.0}
    run = trained(*BEST)
    assert checkpoints(run) == ["checkpoint-3", "checkpoint-6"]  # save_total_limit 1: the best, and the last
    assert same(run, run / "checkpoint-3") and not same(run, run / "checkpoint-6")
    results = read_run_card(run).results
    assert (results["best_step"], results["best_validation_loss"], results["validation_loss"]) == (3, 2.0, 3.0)
    assert (results["steps"], results["samples"]) == (6, 24)
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [1, 2, 3, 4, 5, 6]
    plain = trained("--output_dir", str(tmp_path / "plain"), "--weight_decay", "0")
    assert same(plain, run / "checkpoint-6")  # validating changes nothing that is trained


def test_the_best_checkpoint_outlives_resuming_and_moving(
    trained: Train, argv: list[str], losses: dict[int, float], tmp_path: Path
) -> None:
    losses |= {1: 9.0, 2: 4.0, 3: 2.0, 4: 5.0, 5: 6.0, 6: 3.0}
    straight = trained(*BEST, "--save_total_limit", "9")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("checkpoint-3", "checkpoint-4"):
        shutil.copytree(straight / name, moved / name)
    assert trained(*BEST, "--output_dir", str(moved)) == moved
    assert same(moved, straight) and checkpoints(moved) == ["checkpoint-3", "checkpoint-6"]
    # Killed between its last step and its end.
    (moved / "run.yaml").unlink()
    (moved / "adapter_model.safetensors").unlink()
    trained(*BEST, "--output_dir", str(moved))
    assert same(moved, straight)
    (moved / "run.yaml").unlink()
    shutil.rmtree(moved / "checkpoint-3")
    with pytest.raises(UserError, match="checkpoint-3: is gone, but had the best validation loss so far"):
        train([*argv, *BEST, "--output_dir", str(moved)])


def test_the_last_step_is_validated_once_and_may_be_the_best(trained: Train, losses: dict[int, float]) -> None:
    losses |= {6: 1.0}
    run = trained("--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "True")
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [6]
    assert checkpoints(run) == ["checkpoint-6"] and same(run, run / "checkpoint-6")
    last = json.loads((run / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert best_validation(last) == best_validation(history)


def test_losses_that_are_not_finite_are_never_the_best() -> None:
    history = [{"step": 1, "eval_loss": float("nan")}, {"step": 2, "eval_loss": 2.0}, {"step": 3, "eval_loss": 2.0}]
    best = best_validation(history)
    assert best is not None and best.step == 2
    assert best_validation(history[:1]) is None and best_validation([{"step": 1, "loss": 1.0}]) is None


# What a finished run says --------------------------------------------------------------------------------------


def test_samples_and_tokens_are_counted_exactly(trained: Train, argv: list[str], tiny: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from llava_teamlora.data.templates import get_template
    from llava_teamlora.data.tokenize import encode

    extra = ("--num_train_epochs", "2", "--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "2",
             "--save_total_limit", "9")  # fmt: skip
    run = trained(*extra)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    records = load_records(data_of(argv)[0])
    encoded = [encode(get_template("v1").segments(record.turns), tokenizer) for record in records]
    pictures = sum(len(record.images) for record in records)
    per_picture = (yaml.safe_load((Path(tiny) / "config.json").read_text()))["vision_config"]
    per_picture = (per_picture["image_size"] // per_picture["patch_size"]) ** 2
    results = read_run_card(run).results
    assert results["samples"] == 2 * 24
    assert results["image_tokens"] == 2 * pictures * per_picture
    assert results["trained_tokens"] == 2 * sum(one.trained_tokens for one in encoded)
    assert results["tokens"] == 2 * (sum(len(one.input_ids) for one in encoded) + pictures * (per_picture - 1))
    assert results["tokens_per_second"] == pytest.approx(results["tokens"] / results["train_seconds"], rel=0.01)
    # A resumed run counts all its legs.
    resumed = tmp_path / "resumed"
    shutil.copytree(run / "checkpoint-8", resumed / "checkpoint-8")
    assert read_run_card(resumed / "checkpoint-8").results["samples"] == 32
    counted = read_run_card(trained(*extra, "--output_dir", str(resumed))).results
    names = ("samples", "tokens", "image_tokens", "trained_tokens", "steps", "epochs")
    assert [counted[name] for name in names] == [results[name] for name in names]
    assert counted["train_seconds"] >= read_run_card(run / "checkpoint-8").results["train_seconds"]


def test_packed_rows_count_their_samples(trained: Train) -> None:
    results = read_run_card(trained("--packing", "True", "--group_by_modality_length", "False")).results
    assert results["samples"] == 24 and results["steps"] < 6


def test_a_finished_run_shows_its_figures(
    trained: Train, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = trained("--max_steps", "2")
    shown = capsys.readouterr().out
    assert "tokens per second" in shown and "peak mem mib" in shown and f"Run folder: {run}" in shown
    assert "No loss_curve.png: matplotlib is not installed" in shown and not (run / "loss_curve.png").exists()


def test_a_curve_is_drawn(trained: Train) -> None:
    pytest.importorskip("matplotlib")
    run = trained("--eval_steps", "3")
    assert (run / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    longer = [*history, *({"step": step, "loss": 1 / step, "learning_rate": 1e-3} for step in range(7, 90))]
    odd = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}]
    pictures = {draw_curve(one, "run") for one in (history, longer, odd, [])}
    assert len(pictures) == 4 and None not in pictures


def test_adalora_ends_with_its_best_ranks(trained: Train, losses: dict[int, float]) -> None:
    """The best checkpoint may lie before the last pruning: its weights, all ranks it still had, are the run's."""
    from llava_teamlora.checkpoint import load_model

    losses |= {step: float(abs(step - 5)) for step in range(1, 13)}
    run = trained("--method", "adalora", "--num_train_epochs", "2", "--eval_steps", "5", *BEST[2:])
    assert read_run_card(run).results["best_step"] == 5
    ids = torch.tensor([[1, 5, 9, 7]])
    models = [load_model(folder, device="cpu").model for folder in (run, run / "checkpoint-5", run / "checkpoint-12")]
    best, kept, last = (model(input_ids=ids).logits for model in models)
    assert torch.allclose(best, kept, atol=1e-5) and not torch.allclose(best, last, atol=1e-5)
