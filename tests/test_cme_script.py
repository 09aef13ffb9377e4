"""scripts/finetune_cme_teamlora.sh: the paper's settings as commands, refusals, and both chains, shortened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_text_bases import make_text_base
from test_scripts import ROOT, last_line, script, shown, value

NAME = "finetune_cme_teamlora.sh"
TASKS = ["tldr", "imdb", "anli", "qqp", "rte", "winogrande", "arc", "webqa", "nq", "triviaqa", "mmlu"]


def test_the_papers_setting_on_eight_gpus() -> None:
    words = shown(NAME, DATA="mix.jsonl", GPUS="8")
    assert words[:4] == ["torchrun", "--nproc_per_node", "8", "--standalone"]
    expected = {
        "--model_name_or_path": "hfl/chinese-llama-2-7b", "--data_path": "mix.jsonl", "--version": "cme",
        "--method": "teamlora", "--r": "32", "--num_experts": "4", "--alpha": "64", "--model_max_length": "1024",
        "--packing": "True", "--bf16": "True", "--num_train_epochs": "1", "--per_device_train_batch_size": "4",
        "--gradient_accumulation_steps": "1", "--deepspeed": str(ROOT / "scripts" / "zero2.json"),
        "--output_dir": str(Path.cwd() / "runs" / "chinese-llama-2-7b-cme-teamlora"),
    }  # fmt: skip
    assert {flag: value(words, flag) for flag in expected} == expected
    assert not {"--vision_tower", "--image_folder", "--mm_projector_lr", "--target_modules"} & set(words)


@pytest.mark.parametrize(
    ("method", "extra", "flags"),
    [  # Table 2's ranks; the update's share alpha / (k r) is 1/2 in all of them
        ("teamlora", {"R": "16"}, {"--r": "16", "--alpha": "32", "--num_experts": "4"}),
        ("moelora", {}, {"--r": "32", "--alpha": "64", "--num_experts": "4"}),
        ("hydralora", {"K": "3"}, {"--r": "32", "--num_experts": "3"}),
        ("lora", {}, {"--r": "128", "--alpha": "64"}),
        ("lora", {"R": "32"}, {"--r": "32", "--alpha": "16"}),
        ("adalora", {}, {"--r": "128", "--alpha": "64"}),
        ("moslora", {}, {"--r": "128", "--alpha": "64"}),
        ("ia3", {}, {"--learning_rate": "3e-3"}),
        ("prompt_tuning", {}, {"--packing": "False", "--group_by_length": "True"}),
        ("full", {}, {"--learning_rate": "2e-5", "--deepspeed": str(ROOT / "scripts" / "zero3.json")}),
    ],
)
def test_the_other_methods(method: str, extra: dict[str, str], flags: dict[str, str]) -> None:
    words = shown(NAME, DATA="mix.jsonl", GPUS="2", METHOD=method, **extra)
    assert value(words, "--method") == method and {flag: value(words, flag) for flag in flags} == flags
    assert ("--r" in words) == ("--r" in flags) and ("--num_experts" in words) == ("--num_experts" in flags)
    assert ("--deepspeed" in words) == (method != "adalora")


def test_further_arguments_win() -> None:
    matched = shown(NAME, "--match_params", "teamlora:r=32,num_experts=4", DATA="m", GPUS="1", METHOD="lora")
    assert value(matched, "--match_params") == "teamlora:r=32,num_experts=4" and "--r" not in matched
    chat = shown(NAME, "--learning_rate", "1e-5", DATA="m", MODEL="Qwen", GPUS="1", TEMPLATE="chat")
    assert (value(chat, "--version"), value(chat, "--learning_rate")) == ("chat", "1e-5")


def test_the_embedded_chains_command() -> None:
    words = shown(NAME)
    assert words[:4] == ["llava-teamlora", "train", "--config", "scripts/cme.yaml"]
    assert value(words, "--data_path") == "playground/data/embedded-cme/mix.jsonl"
    assert value(words, "--packing") == "True" and "--r" not in words
    assert value(shown(NAME, METHOD="moelora"), "--match_params") == "teamlora:r=8,num_experts=4"
    chosen = shown(NAME, METHOD="moelora", K="2")
    assert (value(chosen, "--r"), value(chosen, "--num_experts")) == ("8", "2") and "--match_params" not in chosen


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    for variables, arguments, message in (
        ({"MODEL": "m"}, [], "MODEL or EVAL is set, so DATA (what llava-teamlora cme build writes) is needed too"),
        ({"DATA": "m", "IMAGES": "i"}, [], "IMAGES=i: CME is text alone"),
        ({"DATA": "m", "LIMIT": "3"}, [], "LIMIT is of evaluation, which needs EVAL"),
        ({"DATA": "m", "EVAL": str(tmp_path / "no")}, [], "no: no such folder"),
        ({"R": "0"}, [], "R=0 is no whole number above 0"),
        ({"LIMIT": "0"}, [], "LIMIT=0 is no whole number above 0"),
        ({"METHOD": "lora", "K": "2"}, [], "K=2 is a number of experts, of which METHOD=lora has none"),
        ({"METHOD": "ia3", "R": "2"}, [], "which METHOD=ia3 is not"),
        ({"R": "2"}, ["--match_params", "lora:r=8"], "R=2 and --r or --match_params both name a rank"),
        ({}, ["--version=chat"], "write --version VALUE, not --version=VALUE"),
    ):
        result = script(NAME, *arguments, SHOW="1", **variables)
        assert result.returncode == 1
        assert message in result.stderr.strip().splitlines()[-1]


def test_files_that_evaluation_lacks_are_told_before_training(tmp_path: Path) -> None:
    result = script(
        NAME, DATA="mix.jsonl", MODEL="m", EVAL=str(tmp_path), OUT=str(tmp_path / "run"), OMP_NUM_THREADS="1"
    )
    assert result.returncode == 1 and "not ready  tldr" in result.stdout
    assert f"EVAL={tmp_path}: not complete, so nothing is trained" in result.stderr
    assert not (tmp_path / "run").exists()


def test_ones_own_model_and_mix(tmp_path: Path) -> None:
    """Trained, and evaluated on the tasks' own files, here a row of each of the fixtures'."""
    model = make_text_base(tmp_path / "model", "llama_3")
    data = tmp_path / "mix.jsonl"
    rows = [{"instruction": f"Sky {i % 3}?", "output": "red", "task": "nq"} for i in range(32)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    few = ["--use_cpu", "True", "--max_steps", "2", "--report_to", "none"]
    variables = {"MODEL": model, "DATA": str(data), "OUT": str(out), "R": "4", "BATCH": "2", "ACCUM": "1", "GPUS": "1"}
    variables |= {"EVAL": str(ROOT / "eval" / "fixtures"), "LIMIT": "1", "OMP_NUM_THREADS": "1"}
    summary = last_line(script(NAME, *few, **variables))
    assert summary["run"] == str(out) and summary["train_seconds"] > 0 and list(summary["tasks"]) == TASKS
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    manifest = json.loads((out / "evaluation" / "nq" / "manifest.json").read_text())
    assert manifest["model"]["version"] == "cme" and manifest["first_prompt"].endswith("point<|end_of_text|>")


def test_embedded_chain_from_worlds_to_table(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = script(NAME, "--max_steps", "3", OUT=str(out), LIMIT="4", OMP_NUM_THREADS="1")
    summary = last_line(result)
    assert list(summary["tasks"]) == TASKS
    for name, task in summary["tasks"].items():
        assert {"score", "metric", "majority"} <= set(task), name
    assert summary["run"] == str(out)
    again = last_line(script(NAME, "--max_steps", "3", OUT=str(out), LIMIT="4", OMP_NUM_THREADS="1"))
    assert again["tasks"] == summary["tasks"]
