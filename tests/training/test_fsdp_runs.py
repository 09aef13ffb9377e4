"""FSDP2 through the trainer, on two processes: shared out layer by layer, gathered into every file, resumed.

accelerate shards on accelerators alone, so these runs tell it to do so here (plans.sharded_on_cpu). All else is as on
GPUs: the same calls of torch's ``fully_shard``, over gloo.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from process_pair import ProcessPair, succeeded
from run_folders import ONE, TWO, assert_near, logged, logits

from llava_teamlora.checkpoint import load_model
from llava_teamlora.errors import UserError
from llava_teamlora.training.run import train

FSDP = ("--fsdp", "--fsdp_config", str(Path(__file__).parents[2] / "scripts" / "fsdp2.json"))


def test_a_sharded_run_equals_one_process_and_is_resumed(
    pair: ProcessPair, argv: list[str], trained: Callable[..., Path], split: str, tmp_path: Path
) -> None:
    """Batches of pictures beside batches of text, with validation; a crash past step 4."""
    flags = [*argv, "--data_path", split, "--validation_data_path", split, *TWO, *FSDP, "--eval_steps", "2"]
    succeeded(pair.train(flags, plans=["sharded_on_cpu", "must_be_sharded"]))
    run, straight = tmp_path / "run", tmp_path / "straight"
    alone = trained(
        *("--data_path", split, "--validation_data_path", split, "--eval_steps", "2"),
        *(*ONE, "--output_dir", str(tmp_path / "alone")),
    )
    assert_near(run, alone)
    assert torch.equal(logits(run), logits(run / "checkpoint-4"))
    assert logged(run, "eval_loss") == pytest.approx(logged(alone, "eval_loss"), rel=1e-3)
    shutil.copytree(run, straight)
    shutil.rmtree(run / "checkpoint-4")
    for name in ("run.yaml", "adapter_model.safetensors"):
        (run / name).unlink()
    succeeded(pair.train(flags, plans=["sharded_on_cpu", "must_be_sharded"]))
    assert_near(run, straight)
    assert logged(run, "loss") == pytest.approx(logged(straight, "loss"), rel=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("extra", [("--bf16", "True"), ("--gradient_checkpointing", "True"), ("--method", "full")])
def test_other_sharded_runs(pair: ProcessPair, argv: list[str], extra: tuple[str, ...], tmp_path: Path) -> None:
    """They learn, and what they save is whole."""
    dropout = argv.index("--dropout")
    argv[dropout : dropout + 2] = []
    succeeded(pair.train(argv, "--per_device_train_batch_size", "2", *FSDP, *extra, plans=["sharded_on_cpu"]))
    losses = logged(tmp_path / "run", "loss")
    assert losses[-1] < losses[0]
    loaded = load_model(tmp_path / "run", device="cpu").model
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())


def test_a_cpu_is_told_that_nothing_would_be_sharded(pair: ProcessPair, argv: list[str], tmp_path: Path) -> None:
    """accelerate itself would go on with DDP without a word."""
    outcomes = pair.train(argv, *TWO, *FSDP)
    assert [outcome.status for outcome in outcomes] == [1, 1]
    assert "--fsdp splits a model on GPUs only, not on 'cpu'" in str(outcomes[0].error)


def test_one_process_has_nothing_to_share_with(argv: list[str]) -> None:
    with pytest.raises(UserError, match="--fsdp splits a model over processes, and there is one"):
        train([*argv, *FSDP])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"version": 1}, "only FSDP's version 2"), ({"state_dict_type": "SHARDED_STATE_DICT"}, "would hold any weights")],
)
def test_settings_that_cannot_be_saved_from(
    pair: ProcessPair, argv: list[str], tmp_path: Path, settings: dict, message: str
) -> None:
    path = tmp_path / "fsdp.json"
    path.write_text(json.dumps(settings))
    outcomes = pair.train(argv, *TWO, "--fsdp", "--fsdp_config", str(path))
    assert message in str(outcomes[0].error)
