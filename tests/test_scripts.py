"""The front door as a stranger opens it, shortened: few steps, few questions."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_bases import make_clip, make_language_model

from llava_teamlora.tuners import METHODS

ROOT = Path(__file__).parents[1]
KEYS = [
    "run", "accuracy", "stderr", "majority", "question_only", "untuned", "train_seconds", "total_seconds",
    "peak_mem_mib", "trainable_parameters",
]  # fmt: skip


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # The environment the tests run in counts as active, whether or not a shell activated it.
    own = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *arguments],
        env={**os.environ, **own, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def finetune(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return script("finetune_teamlora.sh", *arguments, **variables)


def shown(name: str, *arguments: str, **variables: str) -> list[str]:
    """Words of the command that a script would run."""
    result = script(name, *arguments, SHOW="1", **variables)
    assert result.returncode == 0, result.stderr[-3000:]
    return shlex.split(result.stdout.splitlines()[-1])


def value(words: list[str], flag: str) -> str:
    return words[len(words) - words[::-1].index(flag)]


def last_line(result: subprocess.CompletedProcess[str]) -> dict:
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_embedded_chain_from_data_to_table(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = finetune("--max_steps", "3", OUT=str(out), LIMIT="40", SEED="1")
    summary = last_line(result)
    assert list(summary) == KEYS
    assert summary["run"] == str(out) and 0 <= summary["accuracy"] <= 1 and summary["trainable_parameters"] > 1e5
    assert 0.3 < summary["majority"] < summary["question_only"] < 0.9
    assert summary["peak_mem_mib"] < 3000
    assert "question-only" in result.stdout and f"llava-teamlora cli {out}" in result.stdout
    assert len((out / "evaluation" / "easy_vqa" / "predictions.jsonl").read_text().splitlines()) == 40
    # Given once more, the command has nothing left to train or to answer, and tells the same.
    again = last_line(finetune("--max_steps", "3", OUT=str(out), LIMIT="40", SEED="1"))
    assert {**again, "total_seconds": 0, "peak_mem_mib": 0} == {**summary, "total_seconds": 0, "peak_mem_mib": 0}


@pytest.mark.parametrize(
    ("launcher", "gpus"), [pytest.param("python", "1", marks=pytest.mark.heavy), ("torchrun", "2")]
)
def test_ones_own_model_and_data(
    launcher: str, gpus: str, tiny: str, colors: tuple[Path, Path], tmp_path: Path
) -> None:
    data, images = colors
    out = tmp_path / "run"
    result = finetune(
        "--use_cpu", "True", "--max_steps", "2", "--report_to", "none", "--r", "2",
        MODEL=tiny, DATA=str(data), IMAGES=str(images), OUT=str(out), GPUS=gpus, LAUNCHER=launcher,
        BATCH="4", ACCUM="1", METHOD="lora", OMP_NUM_THREADS="1",
    )  # fmt: skip
    summary = last_line(result)
    assert summary["accuracy"] is None and summary["train_seconds"] > 0
    assert (out / "adapter_model.safetensors").is_file()
    assert "--gradient_checkpointing" not in result.stderr


def test_dry_run_stops_before_training(tmp_path: Path) -> None:
    result = finetune("--dry-run", "True", "--output_dir", str(tmp_path / "run"), METHOD="lora")
    assert result.returncode == 0, result.stderr
    assert "match_params" in result.stdout and "ASSISTANT:" in result.stdout
    assert not (tmp_path / "run").exists()


def test_mistakes_end_in_one_line(tiny: str, tmp_path: Path) -> None:
    out = str(tmp_path / "o")
    for variables, message in (
        ({"MODEL": tiny}, "is set, so DATA (a LLaVA JSON) is needed too"),
        ({"DATA": "x.json"}, "lmsys/vicuna-7b-v1.5 needs a mm_projector.bin (scripts/pretrain.sh trains one"),
        ({"MODEL": tiny, "DATA": "x.json", "GPUS": "3"}, "BATCH=16 x 3 processes do not divide GLOBAL_BATCH=128"),
        ({"MODEL": tiny, "DATA": "x.json", "NNODES": "2"}, "NNODES=2 needs MASTER_ADDR"),
        ({"MODEL": tiny, "DATA": "x.json", "OUT": out}, "x.json: no such file"),
        ({"MODEL": tiny, "DATA": "x.json", "OUT": out, "LAUNCHER": "slurm"}, "LAUNCHER=slurm is not torchrun"),
        ({"MODEL": tiny, "DATA": "x.json", "OUT": out, "LIMIT": "3"}, "LIMIT is for the embedded chain"),
        ({"METHOD": "teamlor", "OUT": out}, "did you mean 'teamlora'?"),
    ):
        result = finetune(**variables)
        assert result.returncode == 1
        assert message in result.stderr.strip().splitlines()[-1]


TRAINING = sorted(path.name for pattern in ("finetune*.sh", "pretrain.sh") for path in (ROOT / "scripts").glob(pattern))


@pytest.mark.parametrize("name", TRAINING)
def test_help_teaches(name: str) -> None:
    result = script(name, "--help")
    assert result.returncode == 0 and "VISION_TOWER" in result.stdout and "set -euo" not in result.stdout


def test_every_method_has_a_script(tmp_path: Path) -> None:
    for method in METHODS.keys() - {"full", "projector", "teamlora"}:
        text = (ROOT / "scripts" / f"finetune_{method}.sh").read_text()
        assert f"METHOD=${{METHOD:-{method}}} exec bash" in text
    words = shown("finetune_moelora.sh", "--r", "4", DATA="x.json", PROJECTOR="p.bin", GPUS="8", OUT=str(tmp_path))
    assert value(words, "--method") == "moelora" and words[-2:] == ["--r", "4"]
    assert "--match_params" not in words


def test_llava_1_5_at_7b_on_eight_gpus(tmp_path: Path) -> None:
    """With the data named, all else is LLaVA-1.5's: what its scripts say, for the 7B model."""
    words = shown("finetune_teamlora.sh", DATA="x.json", IMAGES="i", PROJECTOR="p.bin", GPUS="8")
    assert words[:4] == ["torchrun", "--nproc_per_node", "8", "--standalone"]
    expected = {
        "--deepspeed": str(ROOT / "scripts" / "zero3.json"), "--model_name_or_path": "lmsys/vicuna-7b-v1.5",
        "--vision_tower": "openai/clip-vit-large-patch14-336", "--mm_projector_type": "mlp2x_gelu",
        "--mm_vision_select_layer": "-2", "--pretrain_mm_mlp_adapter": "p.bin", "--version": "v1",
        "--image_aspect_ratio": "pad", "--group_by_modality_length": "True", "--model_max_length": "2048",
        "--num_train_epochs": "1", "--per_device_train_batch_size": "16", "--gradient_accumulation_steps": "1",
        "--learning_rate": "2e-4", "--mm_projector_lr": "2e-5", "--weight_decay": "0", "--warmup_steps": "0.03",
        "--lr_scheduler_type": "cosine", "--gradient_checkpointing": "True", "--method": "teamlora",
        "--bf16": "True", "--tf32": "True", "--dataloader_num_workers": "4", "--save_total_limit": "1",
        "--output_dir": str(Path.cwd() / "runs" / "vicuna-7b-v1.5-teamlora"),
    }  # fmt: skip
    assert {flag: value(words, flag) for flag in expected} == expected
    full = shown("finetune.sh", DATA="x.json", PROJECTOR="none", GPUS="8")
    assert (value(full, "--method"), value(full, "--learning_rate")) == ("full", "2e-5")
    assert "--mm_projector_lr" not in full and "--pretrain_mm_mlp_adapter" not in full
    captions = shown("pretrain.sh", DATA="x.json", GPUS="8")
    expected = {"--version": "plain", "--learning_rate": "1e-3", "--per_device_train_batch_size": "32"}
    expected |= {"--deepspeed": str(ROOT / "scripts" / "zero2.json"), "--image_aspect_ratio": "square"}
    assert {flag: value(captions, flag) for flag in expected} == expected and "--mm_projector_lr" not in captions
    assert "--deepspeed" not in shown("finetune_teamlora.sh", DATA="x.json", PROJECTOR="none", GPUS="1")
    offloaded = shown("finetune.sh", DATA="x.json", PROJECTOR="none", GPUS="1", ZERO="3_offload")
    assert offloaded[0] == "torchrun" and value(offloaded, "--deepspeed").endswith("zero3_offload.json")
    task = shown("finetune_task_teamlora.sh", DATA="x.json", GPUS="8")
    assert value(task, "--model_name_or_path") == "llava-hf/llava-1.5-7b-hf" and "--vision_tower" not in task


@pytest.mark.parametrize(
    ("name", "variables", "batch", "steps"),
    [
        ("finetune_teamlora.sh", {"GPUS": "2"}, "16", "4"),
        ("finetune_teamlora.sh", {"GPUS": "8", "NNODES": "2", "MASTER_ADDR": "h"}, "8", "1"),
        ("finetune_teamlora.sh", {"GPUS": "3", "BATCH": "5", "ACCUM": "7"}, "5", "7"),
        ("pretrain.sh", {"GPUS": "1"}, "32", "8"),
    ],
)
def test_the_global_batch_is_kept(name: str, variables: dict[str, str], batch: str, steps: str) -> None:
    words = shown(name, DATA="x.json", PROJECTOR="none", **variables)
    assert value(words, "--per_device_train_batch_size") == batch
    assert value(words, "--gradient_accumulation_steps") == steps


def test_several_machines(tmp_path: Path) -> None:
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    words = shown("finetune_teamlora.sh", DATA="x.json", PROJECTOR="none", GPUS="8", **nodes)
    assert "--standalone" not in words
    assert [value(words, f"--{name}") for name in ("nnodes", "node_rank", "master_addr", "master_port")] == [
        "2", "1", "10.0.0.1", "1234",
    ]  # fmt: skip
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=8\nb slots=8\n# c slots=8\n")
    words = shown("finetune_teamlora.sh", DATA="x.json", PROJECTOR="none", GPUS="8", HOSTFILE=str(hosts))
    assert words[0] == "deepspeed" and value(words, "--hostfile") == str(hosts) and value(words, "--num_nodes") == "2"
    assert value(words, "--per_device_train_batch_size") == "8"


def test_pretraining_leaves_what_finetuning_starts_from(tiny: str, colors: tuple[Path, Path], tmp_path: Path) -> None:
    data, images = colors
    model, tower = make_language_model(tmp_path / "llm", tiny), make_clip(tmp_path / "clip", tiny)
    rows = [row for row in json.loads(data.read_text()) if "image" in row]
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps(rows))
    common = {
        "MODEL": model, "VISION_TOWER": tower, "IMAGES": str(images), "GPUS": "1", "BATCH": "4", "ACCUM": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    few = ["--use_cpu", "True", "--max_steps", "2", "--report_to", "none"]
    first = script("pretrain.sh", *few, DATA=str(captions), OUT=str(tmp_path / "pretrained"), **common)
    assert last_line(first)["train_seconds"] > 0
    projector = tmp_path / "pretrained" / "mm_projector.bin"
    assert {key.split(".")[2] for key in torch.load(projector, weights_only=True)} == {"0", "2"}
    second = script(
        "finetune_moelora.sh", *few, DATA=str(data), PROJECTOR=str(projector), OUT=str(tmp_path / "run"), **common
    )
    assert last_line(second)["trainable_parameters"] > 0
