"""LLaVA's scripts, flag for flag: what they mean here, what is refused, and that they train."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_bases import make_clip, make_language_model
from safetensors.torch import load_file

from llava_teamlora.errors import UserError
from llava_teamlora.models.projector import write_projector
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.flags.arguments import Arguments, DataArguments, TrainingArguments
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.training.flags.llava_flags import OLD_NAMES, translate
from llava_teamlora.training.flags.method_arguments import MethodArguments
from llava_teamlora.training.flags.model_arguments import ModelArguments
from llava_teamlora.training.flags.old_flags import TRANSFORMERS
from llava_teamlora.training.run import train

COMMON = (
    "--bf16 True --num_train_epochs 1 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 "
    "--evaluation_strategy no --save_strategy steps --save_total_limit 1 --weight_decay 0. --warmup_ratio 0.03 "
    "--lr_scheduler_type cosine --logging_steps 1 --tf32 True --model_max_length 2048 --gradient_checkpointing True "
    "--dataloader_num_workers 4 --lazy_preprocess True --report_to tensorboard"
).split()
VISION = (
    "--vision_tower TOWER --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 --mm_use_im_start_end False "
    "--mm_use_im_patch_token False --image_folder IMAGES"
).split()
TUNING = (
    "--version v1 --image_aspect_ratio pad --group_by_modality_length True --per_device_train_batch_size 16 "
    "--save_steps 50000 --data_path DATA --output_dir OUT"
).split()
LORA = "--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 --learning_rate 2e-4".split()
PROJECTOR = ["--pretrain_mm_mlp_adapter", "PROJECTOR"]

# The four scripts of LLaVA-1.5 (scripts/v1_5); --deepspeed is tested by itself, and reports go to tensorboard.
SCRIPTS: dict[str, list[str]] = {
    "pretrain": [
        *"--model_name_or_path MODEL --version plain --data_path DATA --tune_mm_mlp_adapter True".split(),
        *"--output_dir OUT --per_device_train_batch_size 32 --save_steps 24000 --learning_rate 1e-3".split(),
        *VISION,
        *COMMON,
    ],
    "finetune": ["--model_name_or_path", "MODEL", "--learning_rate", "2e-5", *PROJECTOR, *TUNING, *VISION, *COMMON],
    "finetune_lora": [*LORA, "--model_name_or_path", "MODEL", *PROJECTOR, *TUNING, *VISION, *COMMON],
    "finetune_task_lora": [*LORA, "--model_name_or_path", "MODEL", *TUNING, *VISION, *COMMON],
}
CPU = ["--use_cpu", "True"]


@dataclasses.dataclass(frozen=True)
class Places:
    """What the words in capitals of a script stand for."""

    MODEL: str
    TOWER: str
    PROJECTOR: str
    DATA: str
    IMAGES: str
    OUT: str

    def fill(self, script: str) -> list[str]:
        return [getattr(self, word, word) for word in SCRIPTS[script]]


@pytest.fixture
def places(tmp_path: Path, tiny: str, colors: tuple[Path, Path]) -> Places:
    """A tiny language model, tower, pre-trained projector and data."""
    projector = tmp_path / "mm_projector.bin"
    sizes = {"linear_1.weight": (16, 16), "linear_1.bias": (16,), "linear_2.weight": (16, 16), "linear_2.bias": (16,)}
    weights = {f"multi_modal_projector.{name}": torch.randn(size) for name, size in sizes.items()}
    write_projector(weights, "mlp2x_gelu", projector)
    return Places(
        MODEL=make_language_model(tmp_path / "llm", tiny),
        TOWER=make_clip(tmp_path / "clip", tiny),
        PROJECTOR=str(projector),
        DATA=str(colors[0]),
        IMAGES=str(colors[1]),
        OUT=str(tmp_path / "run"),
    )


def parse(*words: str) -> Arguments:
    return parse_arguments(["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", *words])


# LLaVA's scripts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "method", "rate", "options"),
    [
        ("pretrain", "projector", 1e-3, (None, None, None, None)),
        ("finetune", "full", 2e-5, (None, None, None, None)),
        ("finetune_lora", "lora", 2e-4, (128, 256.0, 0.05, "all-linear")),
        ("finetune_task_lora", "lora", 2e-4, (128, 256.0, 0.05, "all-linear")),
    ],
)
def test_scripts_mean_what_they_mean_in_llava(
    script: str, method: str, rate: float, options: tuple[Any, ...], places: Places
) -> None:
    arguments = parse_arguments([*places.fill(script), *CPU, "--local_rank=0"])
    how, training = arguments.method, arguments.training
    assert how.method == method and training.learning_rate == rate
    assert (how.r, how.alpha, how.dropout, how.target_modules) == options
    assert (training.warmup_steps, training.eval_strategy, training.lr_scheduler_type) == (0.03, "no", "cosine")
    assert (training.model_max_length, training.num_train_epochs, training.bf16) == (2048, 1, True)
    assert training.group_by_modality_length is (script != "pretrain")
    # The pretraining script leaves the pictures' shape to LLaVA's default.
    assert arguments.data.image_aspect_ratio == ("square" if script == "pretrain" else "pad")
    assert arguments.model.mm_vision_select_layer == -2 and arguments.model.mm_projector_type == "mlp2x_gelu"
    assert "local_rank" not in arguments.resolved() and "tf32" not in arguments.resolved()
    assert f"this trains: --method {method}" in arguments.notice
    for told in ("--evaluation_strategy no", "--warmup_ratio 0.03", "--lazy_preprocess True", "--tf32 True"):
        assert told in arguments.notice


def test_finetune_lora_trains_all_linears_of_the_language_model(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*places.fill("finetune_lora"), *CPU, "--max_steps", "2", "--dataloader_num_workers", "0"]
    assert train([*flags, "--per_device_train_batch_size", "4", "--lora_bias", "all"]) == 0
    assert "--lora_r 128" in capsys.readouterr().out
    run = Path(places.OUT)
    weights = load_file(run / "adapter_model.safetensors")
    adapted = {key.split(".lora_A")[0] for key in weights if "lora_A" in key}
    assert {path.rpartition(".")[2] for path in adapted} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert all("language_model" in path for path in adapted)
    config = json.loads((run / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (128, 256, 0.05)
    # What the run folder keeps is in today's words, and gives the same run again.
    kept = read_run_card(run).arguments
    assert not OLD_NAMES & kept.keys()
    again = parse_arguments(["--config", str(run / "run.yaml")])
    assert again.notice == "" and again.method.target_modules == "all-linear"


def test_pretrain_leaves_mm_projector_bin(places: Places, tmp_path: Path) -> None:
    rows = [row for row in json.loads(Path(places.DATA).read_text()) if "image" in row]
    captions = dataclasses.replace(places, DATA=str(tmp_path / "captions.json"))
    Path(captions.DATA).write_text(json.dumps(rows))
    flags = [*captions.fill("pretrain"), *CPU, "--max_steps", "2", "--dataloader_num_workers", "0"]
    assert train([*flags, "--per_device_train_batch_size", "4"]) == 0
    written = torch.load(Path(places.OUT) / "mm_projector.bin", weights_only=True)
    trained = load_file(Path(places.OUT) / "adapter_model.safetensors")
    assert sorted(written) == [f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")]
    first = next(value for key, value in trained.items() if key.endswith("linear_1.weight"))
    assert torch.equal(written["model.mm_projector.0.weight"], first)
    assert all("multi_modal_projector" in key for key in trained)


# What chooses the method ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "method", "options"),
    [
        ("--lora_enable True", "lora", (64, 16.0, 0.05, "all-linear")),
        ("--lora_enable --lora-r=32", "lora", (32, 16.0, 0.05, "all-linear")),
        ("--lora_enable True --target_modules .*q_proj", "lora", (64, 16.0, 0.05, ".*q_proj")),
        ("--lora_enable True --method teamlora --lora_r 4 --lora_alpha 8", "teamlora", (4, 8.0, None, None)),
        ("--lora_enable False --method moelora --lora_dropout 0.1", "moelora", (None, None, 0.1, None)),
        ("--method teamlora --lora_r 4", "teamlora", (4, None, None, None)),
        ("--tune_mm_mlp_adapter True", "projector", (None, None, None, None)),
        ("--tune_mm_mlp_adapter True --freeze_backbone True --lora_r 8", "projector", (None, None, None, None)),
        ("--tune_mm_mlp_adapter False", "full", (None, None, None, None)),
        ("--lora_enable False --lora_r 8", "full", (None, None, None, None)),
        ("--lazy_preprocess True", "full", (None, None, None, None)),
        ("--mm_use_im_start_end False", "full", (None, None, None, None)),
        ("--warmup_ratio 0.1", "teamlora", (None, None, None, None)),
        ("", "teamlora", (None, None, None, None)),
    ],
)
def test_method(words: str, method: str, options: tuple[Any, ...]) -> None:
    arguments = parse(*words.split())
    how = arguments.method
    assert (how.method, (how.r, how.alpha, how.dropout, how.target_modules)) == (method, options)
    assert bool(arguments.notice) == bool(words)


def test_lora_enable_and_match_params() -> None:
    how = parse("--lora_enable", "True", "--match_params", "teamlora:r=8").method
    assert (how.r, how.alpha, how.match_params) == (None, 16.0, "teamlora:r=8")


def test_other_names() -> None:
    arguments = parse(
        *"--lora_enable True --lora_bias lora_only --lora_weight_path w --cache_dir c --logging_dir l --no_cuda True "
        "--per_gpu_train_batch_size 3 --adafactor True --push_to_hub_token t".split()
    )
    assert (arguments.method.bias, arguments.method.adapter_name_or_path) == ("lora_only", "w")
    assert (arguments.model.cache_dir, arguments.training.logging_dir) == ("c", "l")
    assert arguments.training.use_cpu and arguments.training.per_device_train_batch_size == 3
    assert (arguments.training.optim, arguments.training.hub_token) == ("adafactor", "t")


def test_what_llava_defaults_to_where_it_is_not_said() -> None:
    """LLaVA's own defaults hold for a LLaVA script, ours for all else; what is said wins over both."""

    def found(*words: str) -> tuple[Any, ...]:
        arguments = parse(*words)
        training, model = arguments.training, arguments.model
        return (
            arguments.data.image_aspect_ratio, training.model_max_length, training.num_train_epochs,
            training.learning_rate, training.lr_scheduler_type, training.warmup_steps, model.mm_vision_select_layer,
            model.mm_projector_type, model.version,
        )  # fmt: skip

    ours = ("pad", 2048, 1.0, 2e-4, "cosine", 0.03, None, None, "v1")
    assert found() == found("--warmup_ratio", "0.03") == ours
    llavas = ("square", 512, 3.0, 5e-5, "linear", 0.0)
    assert found("--lazy_preprocess", "True") == (*llavas, None, None, "v1")
    assert found("--lazy_preprocess", "True", "--vision_tower", "t") == (*llavas, -1, "linear", "v1")
    said = "--lazy_preprocess True --vision_tower t --image_aspect_ratio pad --warmup_ratio 0.1".split()
    assert found(*said) == ("pad", 512, 3.0, 5e-5, "linear", 0.1, -1, "linear", "v1")
    notice = parse(*said).notice
    assert "--model_max_length 512" in notice and "--image_aspect_ratio square" not in notice


def test_the_later_of_two_names_wins() -> None:
    assert parse("--warmup_ratio", "0.1", "--warmup_steps", "5").training.warmup_steps == 5
    assert parse("--warmup_steps", "5", "--warmup_ratio", "0.1").training.warmup_steps == 0.1


def test_yaml_speaks_the_old_names_too(tmp_path: Path) -> None:
    path = tmp_path / "llava.yaml"
    path.write_text("lora_enable: true\nlora_r: 32\nevaluation_strategy: no\nwarmup_ratio: 0.1\nlora_weight_path:\n")
    arguments = parse("--config", str(path), "--lora_r", "16")
    assert (arguments.method.method, arguments.method.r) == ("lora", 16)
    assert (arguments.training.eval_strategy, arguments.training.warmup_steps) == ("no", 0.1)
    path.write_text("lora_enabel: true\n")
    with pytest.raises(UserError, match="unknown key 'lora_enabel'; did you mean 'lora_enable'"):
        parse("--config", str(path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lora_enable True --tune_mm_mlp_adapter True", "give one"),
        ("--tune_mm_mlp_adapter True --method lora", "trains the projector alone, --method lora more"),
        ("--lora_enable True --method full", "--method full, which has no adapter"),
        ("--lora_r 8", "--lora_r without --lora_enable True: LLaVA would ignore it and fine-tune everything"),
        ("--freeze_backbone True", "leaves only lm_head and projector to train in LLaVA"),
        ("--lora_enable maybe", "--lora_enable 'maybe' is not True or False"),
        ("--lora_enable True --method teamlora --lora_bias all", "method 'teamlora' has no option bias"),
        ("--lora_enable True --lora_bias some", "bias must be one of none, all, lora_only"),
        ("--mm_use_im_start_end True", "marks around pictures"),
        ("--mm_patch_merge_type spatial_unpad", "LLaVA-1.5 has flat"),
        ("--image_aspect_ratio anyres", "LLaVA-1.5 has pad or square"),
        ("--image_grid_pinpoints [(336,672)]", "use --image_aspect_ratio pad"),
        ("--warmup_ratio 1.5", "a number of steps is --warmup_steps"),
        ("--save_safetensors False", "always written as safetensors"),
        ("--sharded_ddp simple", "use --deepspeed"),
        ("--half_precision_backend apex", "PyTorch's own mixed precision is always used"),
        ("--fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer", "--fsdp_config"),
        ("--lora_enabel True", "unknown flag --lora_enabel; did you mean '--lora_enable'?"),
        ("--evaluation_stratgy no", "did you mean '--evaluation_strategy'?"),
        ("--report_to wandb", "pip install wandb, or --report_to tensorboard"),
        ("--report_to trackio", "pip install trackio, or --report_to tensorboard"),
        ("--report_to tensorbord", "did you mean 'tensorboard'?"),
        ("--deepspeed scripts/zero9.json", "scripts/zero9.json: no such file (--deepspeed; looked for from "),
    ],
)
def test_refusals(words: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse(*words.split())


# The tables -------------------------------------------------------------------------------------------------


def test_no_old_name_is_one_of_ours() -> None:
    """A flag that is there must not be translated away; and what a rename leads to must be there."""
    parts = (ModelArguments, MethodArguments, DataArguments, TrainingArguments)
    today = {field.name for part in parts for field in dataclasses.fields(part)}
    assert today & OLD_NAMES == {"local_rank"}  # transformers takes it and does nothing with it
    assert {old.new for old in TRANSFORMERS.values()} - {None} <= today


def test_nothing_to_translate_changes_nothing() -> None:
    words = ["--method", "lora", "--mm_vision_select_layer", "-2", "--bf16=True", "--fsdp_config", '{"a": -1}', "-h"]
    assert translate(words).argv == words
    assert translate(words).defaults == {} and translate(words).notice == ""


# DeepSpeed --------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_our_deepspeed_files_keep_optimizer_and_schedule(name: str) -> None:
    content = json.loads((ROOT / "scripts" / f"{name}.json").read_text())
    assert content["zero_optimization"]["stage"] == int(name[4])
    assert not {"optimizer", "scheduler"} & content.keys()
    offloaded = content["zero_optimization"].keys() & {"offload_optimizer", "offload_param"}
    expected = {"zero2_offload": {"offload_optimizer"}, "zero3_offload": {"offload_optimizer", "offload_param"}}
    assert offloaded == expected.get(name, set())


def test_a_section_that_would_lose_a_setting_is_refused(tmp_path: Path) -> None:
    """LLaVA's own zero3_offload.json would replace its cosine by a constant rate, and drop the projector's rate."""
    path = tmp_path / "zero3_offload.json"
    path.write_text(json.dumps({"scheduler": {"type": "WarmupLR"}, "zero_optimization": {"stage": 3}}))
    with pytest.raises(
        UserError, match=r'"scheduler" section \(WarmupLR\) would take the place of --lr_scheduler_type'
    ):
        parse("--deepspeed", str(path))
    path.write_text(json.dumps({"optimizer": {"type": "AdamW"}, "zero_optimization": {"stage": 3}}))
    with pytest.raises(UserError, match='"optimizer" section would leave --mm_projector_lr'):
        parse("--deepspeed", str(path), "--mm_projector_lr", "2e-5")
    path.write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        parse("--deepspeed", str(path))


# Elsewhere --------------------------------------------------------------------------------------------------


def test_folders_reach_the_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants
    from transformers.utils.hub import cached_file

    from llava_teamlora.training.outside import choose_folders

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", huggingface_hub.constants.HF_HUB_CACHE)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "before")
    choose_folders(str(tmp_path / "hub"), str(tmp_path / "logs"))
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "hub" / "models--a--b" / "refs").mkdir()
    (tmp_path / "hub" / "models--a--b" / "refs" / "main").write_text("0")
    assert cached_file("a/b", "config.json") == str(snapshot / "config.json")

    import os

    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "logs")


def test_a_run_yaml_says_all(tmp_path: Path) -> None:
    """Its values are today's, so a LLaVA flag beside it brings no default of LLaVA's with it."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"llava_teamlora_run": 1, "arguments": parse().resolved()}))
    arguments = parse("--config", str(path), "--lazy_preprocess", "True")
    assert arguments.method.method == "teamlora" and arguments.training.model_max_length == 2048
