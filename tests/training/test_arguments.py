"""Flags and YAML: the command line wins, unknown names are refused with the nearest known one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from llava_teamlora.errors import UserError
from llava_teamlora.training.flags.command_line import parse_arguments

NEEDED = ["--model_name_or_path", "base", "--data_path", "data.json", "--output_dir", "out"]


def test_llavas_names_and_our_defaults() -> None:
    arguments = parse_arguments([*NEEDED, "--mm_projector_lr", "2e-5", "--group_by_modality_length", "True"])
    assert arguments.training.mm_projector_lr == 2e-5
    assert arguments.training.group_by_modality_length is True
    assert (arguments.training.lr_scheduler_type, arguments.training.warmup_steps) == ("cosine", 0.03)
    assert (arguments.method.method, arguments.model.version, arguments.data.image_aspect_ratio) == (
        "teamlora",
        "v1",
        "pad",
    )


def test_command_line_wins_over_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\nlearning_rate: 1.0e-3\ngroup_by_modality_length: true\nr: 4\n")
    arguments = parse_arguments(["--config", str(path), *NEEDED, "--seed", "5"])
    assert (arguments.training.seed, arguments.training.learning_rate, arguments.method.r) == (5, 1e-3, 4)
    assert arguments.training.group_by_modality_length is True


def test_resolved_arguments_give_the_same_run_again(tmp_path: Path) -> None:
    first = parse_arguments(
        [*NEEDED, "--r", "4", "--bf16", "False", "--lr_scheduler_kwargs", '{"num_cycles": 0.5}', "--seed", "7"]
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"llava_teamlora_run": 1, "arguments": first.resolved()}))
    again = parse_arguments(["--config", str(path)])
    assert again.training.lr_scheduler_kwargs == {"num_cycles": 0.5}
    assert {k: v for k, v in again.resolved().items() if k in first.resolved()} == first.resolved()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--learning_rat", "1"], "unknown flag --learning_rat; did you mean '--learning_rate'?"),
        (["--version", "v3"], "--version 'v3' is not a template (known: "),
        (["--method", "teamlor"], "full; did you mean 'teamlora'?"),
        (["--r", "0"], "r"),
        (["--r", "x"], "argument --r: invalid int value: 'x'"),
        (["--image_aspect_ratio", "padd"], "--image_aspect_ratio 'padd' is not one of pad, square"),
        (["--mm_projector_type", "linearr"], "'linearr' is not linear, identity or mlpNx_gelu"),
        (["--mm_projector_lr", "-1"], "must not be negative"),
        (["--model_max_length", "0"], "--model_max_length 0 must be at least 1"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0 must be at least 1"),
        (["--pretrain_mm_mlp_adapter", "none.bin"], "none.bin: no such file (--pretrain_mm_mlp_adapter)"),
        (["--vision_tower", "x", "--freeze_mm_mlp_adapter", "True"], "would freeze a projector that was never trained"),
        (["--mm_vision_select_feature", "all"], "--mm_vision_select_feature 'all' is not patch or cls_patch"),
        (["--config=none.yaml"], "none.yaml: no such file"),
        (["--config", "a.yaml", "--config", "b.yaml"], "--config is given more than once"),
        (["extra"], "unexpected words ['extra']"),
        (["--match_params", "teamlora:r=8", "--r", "2"], "--match_params chooses the rank: drop --r"),
        (["--match_params", "teamlor:r=8"], "full; did you mean 'teamlora'?"),
        (["--match_params", "teamlora:r=x"], "write e.g. teamlora:r=8"),
        (["--match_params", "teamlora:rank=8"], "write e.g. teamlora:r=8"),
        (["--match_params", "full"], "full has no adapter to match"),
        (["--method", "lora", "--num_experts", "4"], "method 'lora' has no option num_experts"),
        (["--method", "ia3", "--target_modules", "x"], "needs feedforward_modules too"),
        (["--method", "adalora", "--r", "1"], "r must be at least 2"),
        (["--group_lr", "router"], "'router' is not part=number"),
        (["--group_lr", "router=1e-3,router=2e-3"], "each part once"),
        (["--group_lr", "router=-1"], "with a number >= 0"),
        (["--group_weight_decay", "router=nan"], "'router=nan' is not part=number"),
        (["--group_lr", "projector=1e-5", "--mm_projector_lr", "1e-5"], "are the same: give one of them"),
        (["--config"], "--config needs a file"),
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor 0.1 is not supported"),
        (["--save_only_model", "True"], "its checkpoints could not be gone on from"),
        (["--load_best_model_at_end", "True"], "--load_best_model_at_end needs validation during training"),
    ],
)
def test_refusals(extra: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_arguments([*NEEDED, *extra])


def test_missing_flags_are_named() -> None:
    with pytest.raises(UserError, match="the following arguments are required: --model_name_or_path, --data_path"):
        parse_arguments(["--output_dir", "out"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: x", "unknown key 'config'"),
        ("save_total_limit:", "save_total_limit must not be empty"),
        ("llava_teamlora_run: 1", "expected"),
        ("learning_rat: 1", "unknown key 'learning_rat'; did you mean"),
        ("a: [", "broken YAML"),
        ("- x", "expected"),
    ],
)
def test_bad_yaml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        parse_arguments(["--config", str(path)])


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "--mm_projector_lr" in shown and "Choose the rank" in shown
