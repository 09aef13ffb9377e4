"""Every method through the trainer: it trains, resumes as if it had never stopped, and answers from its run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig
from PIL import Image
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.groups import part_of
from llava_teamlora.training.run import train
from llava_teamlora.tuners import METHODS

Train = Callable[..., Path]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def history(folder: Path, name: str) -> list[float]:
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in entries if name in entry]


def drop_dropout(argv: list[str]) -> None:
    at = argv.index("--dropout")
    del argv[at : at + 2]


ALIKE = {"moelora", "hydralora", "moslora", "ia3", "projector"}  # another of METHODS goes the same way


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.heavy) if m in ALIKE else m for m in METHODS])
def test_resume_equals_straight_and_the_folder_answers(
    argv: list[str], trained: Train, tmp_path: Path, method: str
) -> None:
    flags = ["--method", method, "--num_train_epochs", "2", "--save_total_limit", "9", "--learning_rate", "3e-3"]
    if "dropout" not in METHODS[method].options:
        drop_dropout(argv)
    straight = trained(*flags, "--output_dir", str(tmp_path / "straight"))
    losses = history(straight, "loss")
    assert len(losses) == 12 and losses[-1] != losses[0]
    # AdaLoRA has pruned for the last time by step 10, and not by step 4: both kinds of checkpoint are resumed.
    for last in (4, 10):
        resumed = tmp_path / f"from-{last}"
        shutil.copytree(straight, resumed)
        (resumed / "run.yaml").unlink()
        for folder in resumed.glob("checkpoint-*"):
            if int(folder.name.rpartition("-")[2]) > last:
                shutil.rmtree(folder)
        trained(*flags, "--output_dir", str(resumed))
        first, second = weights(straight), weights(resumed)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    loaded = load_model(straight, device="cpu")
    assert loaded.manifest["method"] == method
    picture = Image.new("RGB", (50, 50), (255, 0, 0))
    answer = Generator(loaded).generate([Query.ask("what color is it?", picture)], Decoding(max_new_tokens=4))[0]
    assert answer.token_ids
    if method == "full":
        with pytest.raises(UserError, match="holds a whole model, trained in full; drop --model_base"):
            load_model(straight, device="cpu", model_base=str(straight))
        next(straight.glob("model*.safetensors")).unlink()
        with pytest.raises(UserError, match=r"model\.safetensors is missing; the run did not finish"):
            load_model(straight, device="cpu")


def test_full_fine_tuning_in_half_precision_resumes_exactly(argv: list[str], trained: Train, tmp_path: Path) -> None:
    drop_dropout(argv)
    flags = ["--method", "full", "--bf16", "True", "--save_total_limit", "9"]
    straight = trained(*flags, "--output_dir", str(tmp_path / "straight"))
    resumed = tmp_path / "resumed"
    shutil.copytree(straight, resumed)
    (resumed / "run.yaml").unlink()
    shutil.rmtree(resumed / "checkpoint-6")
    trained(*flags, "--output_dir", str(resumed))
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(straight).items())


def test_a_run_adopted_from_its_last_checkpoint_is_pruned_too(trained: Train, tmp_path: Path) -> None:
    flags = ["--method", "adalora", "--r", "6", "--learning_rate", "3e-3"]
    straight = trained(*flags, "--output_dir", str(tmp_path / "straight"))
    adopted = tmp_path / "adopted"
    shutil.copytree(straight, adopted)
    for name in ("run.yaml", "adapter_model.safetensors", "adapter_config.json"):
        (adopted / name).unlink()
    trained(*flags, "--output_dir", str(adopted))
    first, second = weights(straight), weights(adopted)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_flag_that_an_older_run_did_not_know_does_not_stop_it(trained: Train, tmp_path: Path) -> None:
    run = trained("--save_total_limit", "9")
    for card in (run / "run.yaml", run / "checkpoint-4" / "run.yaml"):
        lines = card.read_text().splitlines(keepends=True)
        card.write_text("".join(line for line in lines if "routing_telemetry_steps" not in line))
    assert trained("--save_total_limit", "9") == run  # finished already
    (run / "run.yaml").unlink()
    shutil.rmtree(run / "checkpoint-6")
    trained("--save_total_limit", "9")


def test_adalora_prunes_to_its_budget(trained: Train) -> None:
    flags = ["--method", "adalora", "--r", "6", "--num_train_epochs", "2", "--gradient_accumulation_steps", "2"]
    run = trained(*flags, "--learning_rate", "3e-3")
    config = AdaLoraConfig.from_pretrained(str(run))
    assert isinstance(config, AdaLoraConfig) and config.rank_pattern is not None
    assert (config.init_r, config.target_r, config.total_step, config.tinit, config.tfinal) == (6, 4, 6, 1, 2)
    assert config.orth_reg_weight == 0.5  # peft's own, whatever it was weighed with in training
    kept = [sum(pattern) for pattern in config.rank_pattern.values()]
    assert sum(kept) == 4 * len(kept) and len(set(kept)) > 1
    singular = {name: weight for name, weight in weights(run).items() if name.endswith("lora_E")}
    assert sorted(weight.shape[0] for weight in singular.values()) == sorted(kept)


def test_adalora_on_a_half_precision_base_counts_its_ranks_itself(trained: Train) -> None:
    run = trained("--method", "adalora", "--r", "3", "--bf16", "True", "--max_steps", "4")
    linears = [128 + 384 + 1] * 12
    assert read_run_card(run).results["trainable_parameters"] == 3 * sum(linears) + 33_024


def test_adaloras_regulariser_weighs_the_same_however_a_step_is_split(trained: Train, tmp_path: Path) -> None:
    """Two passes of two samples sum to one pass of four, the regulariser too; a validation loss has none of it."""
    flags = ["--method", "adalora", "--dropout", "0", "--max_steps", "4"]
    whole = trained(*flags, "--output_dir", str(tmp_path / "whole"))
    split = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    split_run = trained(*flags, *split, "--output_dir", str(tmp_path / "split"))
    torch.testing.assert_close(history(whole, "loss"), history(split_run, "loss"), rtol=1e-4, atol=1e-5)
    untuned = trained("--method", "lora", "--dropout", "0", "--max_steps", "4", "--learning_rate", "0",
                      "--mm_projector_lr", "0", "--output_dir", str(tmp_path / "untuned"))  # fmt: skip
    still = trained(*flags, "--learning_rate", "0", "--mm_projector_lr", "0", "--output_dir", str(tmp_path / "still"))
    assert history(still, "eval_loss") == pytest.approx(history(untuned, "eval_loss"), rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "adalora", "--fp16", "True"], "--fp16 overflow now and then: use --bf16 True"),
        (["--group_lr", "rooter=1e-3", "--dry_run", "True"], "--group_lr: nothing that is trained is called 'rooter'"),
        (["--method", "adalora", "--max_steps", "3"], "AdaLoRA's schedule needs at least 4 optimizer steps, got 3"),
        (["--method", "projector", "--freeze_mm_mlp_adapter", "True"], "trains modules_to_save alone"),
        (["--method", "ia3", "--match_params", "teamlora:r=8"], "method 'ia3' has no rank to choose"),
        (["--group_lr", "rooter=1e-3"], "--group_lr: nothing that is trained is called 'rooter'; parts: A, B, "),
        (["--method", "lora", "--group_weight_decay", "router=0"], "called 'router'; parts: A, B, projector"),
    ],
)
def test_refusals(argv: list[str], flags: list[str], message: str) -> None:
    drop_dropout(argv)
    with pytest.raises(UserError, match=message):
        train([*argv, *flags])


@pytest.fixture(scope="module")
def teamlora_r8() -> int:
    """Trainable parameters of TeamLoRA r = 8, k = 4 on the embedded base: 12 linears of four layers, and projector."""
    widths = ([(128, 384)] * 2 + [(384, 128)]) * 4
    return sum(32 * (d_in + d_out) + 4 * d_in + 16 for d_in, d_out in widths) + 33_024


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if "r" in method.options])
def test_equal_parameters_by_flag(trained: Train, method: str, teamlora_r8: int) -> None:
    run = trained("--method", method, "--match_params", "teamlora:r=8", "--max_steps", "4")
    assert abs(read_run_card(run).results["trainable_parameters"] - teamlora_r8) <= 0.01 * teamlora_r8


def test_parts_have_their_own_learning_rates_and_decays(trained: Train, tmp_path: Path) -> None:
    frozen = "router=0,interaction=0"
    flags = [
        "--group_lr",
        f"B=2e-3,{frozen}",
        "--group_weight_decay",
        "A=0.5,router=0.1",
        "--lr_scheduler_type",
        "linear",
    ]
    run = trained(*flags)
    assert history(run, "B_learning_rate") == pytest.approx([2 * rate for rate in history(run, "learning_rate")])
    assert history(run, "projector_learning_rate") == pytest.approx(
        [rate / 10 for rate in history(run, "learning_rate")]
    )
    still = trained("--learning_rate", "0", "--mm_projector_lr", "0", "--output_dir", str(tmp_path / "still"))
    first, trained_ = weights(still), weights(run)
    for name, weight in first.items():
        fixed = part_of(name) in ("router", "interaction")
        assert torch.equal(weight, trained_[name]) == fixed, name
    plain = weights(trained("--group_lr", f"B=2e-3,{frozen}", "--lr_scheduler_type", "linear",
                            "--output_dir", str(tmp_path / "plain")))  # fmt: skip
    norm = {key: sum(w.norm() for n, w in each.items() if part_of(n) == "A") for key, each in
            (("decayed", trained_), ("plain", plain))}  # fmt: skip
    assert norm["decayed"] < norm["plain"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("base_model.model.x.up_proj.teamlora_A.default.weight", "A"),
        ("x.up_proj.hydralora_router_hidden.default.weight", "router"),
        ("x.up_proj.moslora_mixer.default.weight", "mixer"),
        ("x.up_proj.lora_B.default.weight", "B"),
        ("x.up_proj.lora_E.default", "E"),
        ("x.down_proj.ia3_l.default", "l"),
        ("x.up_proj.miss_block.default", "block"),
        ("prompt_encoder.default.embedding.weight", "prompt"),
        ("model.multi_modal_projector.modules_to_save.default.linear_1.weight", "projector"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "model"),
    ],
)
def test_parts_by_name(name: str, part: str) -> None:
    assert part_of(name) == part
