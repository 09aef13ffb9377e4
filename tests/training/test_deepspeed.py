"""DeepSpeed's ZeRO-2 and ZeRO-3 on two processes on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plans
import pytest
import torch
from made_text_bases import make_text_base
from process_pair import ProcessPair, succeeded
from run_folders import ONE, TWO, assert_near, logged, logits
from safetensors.torch import load_file

from llava_teamlora.errors import UserError
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.run import train

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.deepspeed

SCRIPTS = Path(__file__).parents[2] / "scripts"
ZERO2, ZERO3 = (("--deepspeed", str(SCRIPTS / f"{stage}.json")) for stage in ("zero2", "zero3"))
EACH = pytest.mark.parametrize("zero", [pytest.param(ZERO2, marks=pytest.mark.heavy), ZERO3], ids=["zero2", "zero3"])


@EACH
def test_a_process_without_pictures_keeps_step(
    pair: ProcessPair, argv: list[str], split: str, zero: tuple[str, str], tmp_path: Path
) -> None:
    """One process sees text alone, in every training step and every validation, the other pictures alone.

    Both run the same modules in the same order: ZeRO-3 brings the weights of each together when all are there. What
    they train is what one process trains on the same batches.
    """
    flags = [*argv, "--data_path", split, "--validation_data_path", split, "--group_by_modality_length", "False"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "2", "--per_device_eval_batch_size", "2"]
    run, alone = tmp_path / "run", tmp_path / "alone"
    succeeded(pair.train(flags, *TWO, *zero, "--gradient_checkpointing", "True", plans=["in_file_order"]))
    with plans.in_file_order():
        assert train([*flags, *ONE, "--output_dir", str(alone)]) == 0
    assert_near(run, alone)
    assert logged(run, "eval_loss") == pytest.approx(logged(alone, "eval_loss"), rel=1e-3)
    assert len(logged(run, "eval_loss")) >= 2


CASES = [
    pytest.param(ZERO2, "hydralora", id="zero2-hydralora"),
    pytest.param(ZERO3, "teamlora", id="zero3-teamlora"),
    pytest.param(ZERO2, "teamlora", id="zero2-teamlora", marks=pytest.mark.heavy),
    *(
        pytest.param(ZERO3, method, id=f"zero3-{method}", marks=pytest.mark.heavy)
        for method in ("hydralora", "moelora", "moslora", "lora")
    ),
]


@pytest.mark.parametrize(("zero", "method"), CASES)
def test_two_processes_equal_one(
    pair: ProcessPair,
    argv: list[str],
    trained: Callable[..., Path],
    zero: tuple[str, str],
    method: str,
    tmp_path: Path,
) -> None:
    """Adapter and projector are gathered into every file, and are what one process trains on the same batches."""
    run = tmp_path / "run"
    succeeded(pair.train(argv, *TWO, "--method", method, *zero))
    alone = trained(*ONE, "--method", method, "--output_dir", str(tmp_path / "alone"))
    assert_near(run, alone)
    assert torch.equal(logits(run), logits(run / "checkpoint-6"))
    torch.testing.assert_close(logits(run), logits(alone), rtol=1e-3, atol=1e-3)
    ours, theirs = (read_run_card(folder).results["validation_loss"] for folder in (run, alone))
    assert ours == pytest.approx(theirs, rel=1e-3)


@EACH
def test_a_resumed_run_equals_a_straight_one(
    pair: ProcessPair, argv: list[str], zero: tuple[str, str], tmp_path: Path
) -> None:
    """Weights, losses and learning rates, in bf16 and with dropout: optimizer, schedule, order, randomness go on."""
    flags = (*argv, "--per_device_train_batch_size", "2", "--save_total_limit", "9", "--bf16", "True", *zero)
    succeeded(pair.train(flags))
    run, straight = tmp_path / "run", tmp_path / "straight"
    shutil.copytree(run, straight)
    _crash_past_step_4(run)
    with pytest.raises(UserError, match="processes 2 -> 1"):
        train([*flags[:-2]])
    outcomes = pair.train(flags)
    succeeded(outcomes)
    assert f"Going on from {run / 'checkpoint-4'}" in outcomes[0].output
    assert_near(run, straight)
    for name in ("loss", "learning_rate", "projector_learning_rate"):
        ours, theirs = logged(run, name), logged(straight, name)
        assert len(ours) == 6 and ours == pytest.approx(theirs, rel=1e-4), name


@EACH
def test_a_text_only_base_trains_as_alone(pair: ProcessPair, zero: tuple[str, str], tmp_path: Path) -> None:
    """The mix of a text benchmark, packed: no tower, no projector, and the same weights as one process makes."""
    base = make_text_base(tmp_path / "base", "llama_3")
    rows = [{"instruction": f"Sky {i % 3}?", "output": ("red", "blue", "grey")[i % 3]} for i in range(48)]
    data = tmp_path / "mix.json"
    data.write_text(json.dumps(rows))
    flags = [
        "--model_name_or_path", base, "--data_path", str(data), "--version", "cme", "--use_cpu", "True",
        "--packing", "True", "--model_max_length", "64", "--learning_rate", "1e-3", "--logging_steps", "1",
        "--report_to", "none", "--disable_tqdm", "True", "--per_device_train_batch_size", "2", "--dropout", "0",
    ]  # fmt: skip
    run, alone = tmp_path / "run", tmp_path / "alone"
    succeeded(pair.train([*flags, "--output_dir", str(run)], *zero))
    assert train([*flags, "--gradient_accumulation_steps", "2", "--output_dir", str(alone)]) == 0
    assert logged(run, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-3) and len(logged(run, "loss")) >= 2
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (run, alone))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (ours[name] - weight).norm() < 1e-3 * weight.norm(), name


def _crash_past_step_4(run: Path) -> None:
    """As after a crash: the run's end and its later checkpoint never came to be."""
    shutil.rmtree(run / "checkpoint-6")
    for name in ("run.yaml", "adapter_model.safetensors"):
        (run / name).unlink()


def test_an_adapter_is_gone_on_from_under_zero3(
    pair: ProcessPair, argv: list[str], trained: Callable[..., Path], tmp_path: Path
) -> None:
    """Another run's adapter and projector are where the split ones start."""
    first = trained("--output_dir", str(tmp_path / "first"))
    flags = ("--adapter_name_or_path", str(first), "--learning_rate", "0", "--mm_projector_lr", "0")
    succeeded(pair.train(argv, *TWO, "--dropout", "0.1", *flags, *ZERO3))
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("run", "first"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize("stage", [pytest.param("zero2_offload", marks=pytest.mark.heavy), "zero3_offload"])
def test_offloading_keeps_the_schedule(pair: ProcessPair, argv: list[str], stage: str, tmp_path: Path) -> None:
    """Cosine, warm-up and the projector's own rate: what LLaVA's zero3_offload.json loses."""
    config = json.loads((SCRIPTS / f"{stage}.json").read_text())
    config["zero_force_ds_cpu_optimizer"] = False  # DeepSpeed's own Adam on CPU is compiled first, for minutes
    path = tmp_path / "offload.json"
    path.write_text(json.dumps(config))
    flags = ("--warmup_steps", "2", "--save_strategy", "no", "--deepspeed", str(path))
    succeeded(pair.train(argv, *TWO, *flags))
    shares = [0.0, 0.5, 1.0, 0.8536, 0.5, 0.1464]
    assert logged(tmp_path / "run", "learning_rate") == pytest.approx([1e-3 * share for share in shares], abs=1e-7)
    rates = logged(tmp_path / "run", "projector_learning_rate")
    assert rates == pytest.approx([1e-4 * share for share in shares], abs=1e-8)


def test_sections_that_take_the_place_of_flags_are_refused(argv: list[str], tmp_path: Path) -> None:
    """As in the zero3_offload.json that comes with LLaVA."""
    automatic: dict[str, Any] = {
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_num_steps": "auto"}},
    }
    for name, section in automatic.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**json.loads(Path(ZERO3[1]).read_text()), name: section}))
        with pytest.raises(UserError, match=f'"{name}" section'):
            train([*argv, "--deepspeed", str(path)])


@pytest.mark.parametrize("method", ["teamlora", pytest.param("lora", marks=pytest.mark.heavy)])
def test_saving_without_gathering_is_refused(pair: ProcessPair, argv: list[str], method: str, tmp_path: Path) -> None:
    """peft itself warns for LoRA, and writes the empty weights."""
    outcomes = pair.train(argv, "--method", method, *TWO, *ZERO3, plans=["ungathered"])
    assert outcomes[0].status == 1 and outcomes[0].error is not None
    assert "checkpoint-2: cannot be saved" in outcomes[0].error and "is empty (shape [0])" in outcomes[0].error
    assert not list((tmp_path / "run").glob("**/adapter_model.safetensors"))


@pytest.mark.heavy
@EACH
def test_full_fine_tuning_learns_and_goes_on(
    pair: ProcessPair, argv: list[str], zero: tuple[str, str], tmp_path: Path
) -> None:
    """All weights but the tower's, in bf16."""
    dropout = argv.index("--dropout")
    argv[dropout : dropout + 2] = ["--method", "full"]
    flags = [*argv, "--per_device_train_batch_size", "2", "--save_total_limit", "9", "--bf16", "True", *zero]
    succeeded(pair.train(flags))
    run = tmp_path / "run"
    losses = logged(run, "loss")
    assert losses[-1] < losses[0]
    shutil.rmtree(run / "checkpoint-6")
    (run / "run.yaml").unlink()
    succeeded(pair.train(flags))
    assert logged(run, "loss") == pytest.approx(losses, rel=1e-2)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "extra", [("--packing", "True"), ("--vision_cache", "cache"), ("--routing_telemetry_steps", "2")]
)
def test_other_ways_of_feeding_go_along(
    pair: ProcessPair, argv: list[str], split: str, extra: tuple[str, str], tmp_path: Path
) -> None:
    """Packed rows, kept features, telemetry, under ZeRO-3, with one process whose data have no pictures."""
    flags = ["--data_path", split, "--validation_data_path", split, "--group_by_modality_length", "False"]
    folders = (tmp_path, tmp_path)
    succeeded(pair.train(argv, *flags, *TWO, *ZERO3, *extra, plans=["in_file_order"], folders=folders))
    losses = logged(tmp_path / "run", "loss")
    assert losses and losses == [loss for loss in losses if loss < 20]
