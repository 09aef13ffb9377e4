"""Records of instruction, input and output on text-only bases of several families: training, answering, going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_text_bases import FAMILIES, make_text_base
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.run import train
from llava_teamlora.tuners import METHODS

Flags = Callable[..., list[str]]
SKIES = ("red", "blue", "grey")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """24 records of two tasks, every third with an input."""
    path = tmp_path / "mix.jsonl"
    rows = []
    for index in range(24):
        row = {"instruction": f"Sky {index % 3}?", "output": SKIES[index % 3], "task": ("rte", "arc")[index % 2]}
        rows.append(row if index % 3 else {**row, "input": "Look up."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def flags(records: Path, tmp_path: Path) -> Flags:
    """Flags of a three-step run of a family's base."""

    def make(family: str, *extra: str, chat: str | None = None) -> list[str]:
        folder = tmp_path / family
        if not folder.exists():
            make_text_base(folder, family, chat)
        return [
            "--model_name_or_path", str(folder), "--data_path", str(records), "--output_dir", str(tmp_path / "run"),
            "--use_cpu", "True", "--per_device_train_batch_size", "8", "--learning_rate", "1e-2",
            "--logging_steps", "1", "--save_steps", "2", "--report_to", "none", "--disable_tqdm", "True", *extra,
        ]  # fmt: skip

    return make


FORMS = [("llama_3", "cme"), ("qwen2", "cme"), ("gpt2", "cme"), ("llama_3_instruct", "chat"), ("qwen3", "chat")]


@pytest.mark.parametrize(("family", "version"), FORMS)
def test_a_run_answers_in_the_form_it_was_trained_in(flags: Flags, tmp_path: Path, family: str, version: str) -> None:
    assert train(flags(family, "--version", version, "--r", "4")) == 0
    run = tmp_path / "run"
    (tmp_path / family / "chat_template.jinja").unlink(missing_ok=True)  # the run folder has its own
    loaded = load_model(run, device="cpu")
    assert loaded.manifest["version"] == version == read_run_card(run).version
    generator = Generator(loaded)
    query = Query.ask("Sky 1?")
    end = "<|endoftext|>" if family in ("qwen2", "gpt2") else FAMILIES[family].end
    assert loaded.tokenizer.convert_tokens_to_ids(end) in generator.end
    if version == "cme":
        assert generator.rendered(query) == f"Sky 1?{end}"
    else:
        assert generator.rendered(query).endswith("assistant\n<think>\n\n</think>\n\n" if family == "qwen3" else "\n\n")
    assert generator.encode(query, "blue")[: len(generator.encode(query))] == generator.encode(query)
    answer = generator.generate([query], Decoding(6))[0]
    assert "".join(generator.stream(query, Decoding(6))) == answer.text
    assert all("mlp" in name for name in load_file(run / "adapter_model.safetensors"))


def test_what_is_learned_is_answered(flags: Flags, tmp_path: Path) -> None:
    """Whatever the form: training and asking agree on it, and the model has learned to stop."""
    learning = ("--num_train_epochs", "60", "--learning_rate", "2e-2", "--save_strategy", "no", "--packing", "True")
    assert train(flags("qwen2", "--version", "cme", "--method", "full", "--model_max_length", "64", *learning)) == 0
    generator = Generator(load_model(tmp_path / "run", device="cpu"))
    found = generator.generate([Query.ask(f"Sky {i}?") for i in (1, 2)], Decoding(12))
    assert [(answer.text, answer.finish) for answer in found] == [("blue", "stop"), ("grey", "stop")]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "projector"])
def test_every_method_trains_on_the_mix(flags: Flags, tmp_path: Path, method: str) -> None:
    extra = ["--version", "cme", "--method", method, "--validation_split", "0.25", "--eval_strategy", "steps"]
    extra += ["--eval_steps", "2", "--group_by_length", "True"]
    extra += ["--num_train_epochs", "3"] if method == "adalora" else []
    assert train(flags("llama_3", *extra)) == 0
    run = tmp_path / "run"
    card = read_run_card(run)
    assert card.results["trainable_parameters"] > 0 and card.results["base_parameters"] > 0
    loaded = load_model(run, device="cpu")
    assert Generator(loaded).generate([Query.ask("Sky 0?\nLook up.")], Decoding(3))[0].token_ids is not None


def test_packed_rows_and_telemetry_by_task(flags: Flags, tmp_path: Path) -> None:
    extra = ["--version", "cme", "--packing", "True", "--model_max_length", "64", "--routing_telemetry_steps", "1"]
    assert train(flags("qwen2", *extra, "--per_device_train_batch_size", "2")) == 0
    lines = (tmp_path / "run" / "routing.jsonl").read_text().splitlines()
    groups = json.loads(lines[-1])["groups"]
    assert {"all", "answer", "task/arc", "task/rte"} <= set(groups)


def test_merging_keeps_the_chat_template(flags: Flags, tmp_path: Path) -> None:
    assert train(flags("qwen2_instruct", "--version", "chat", "--method", "lora")) == 0
    assert main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]) == 0
    run, merged = (
        load_model(tmp_path / "run", device="cpu"),
        load_model(tmp_path / "merged", device="cpu", version="chat"),
    )
    query = Query.ask("Sky 1?")
    ids = Generator(run).encode(query)
    assert Generator(merged).encode(query) == ids
    with torch.no_grad():
        before, after = (loaded.model(input_ids=torch.tensor([ids])).logits for loaded in (run, merged))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_a_run_folder_names_its_own_template(flags: Flags, tmp_path: Path) -> None:
    assert train(flags("llama_3", "--version", "cme", "--save_strategy", "no")) == 0
    assert load_model(tmp_path / "run", device="cpu", version="cme").template.name == "cme"
    with pytest.raises(UserError, match="was trained with --version cme, not v1; drop --version"):
        load_model(tmp_path / "run", device="cpu", version="v1")
    with pytest.raises(UserError, match="--version 'cmee' is not a template"):
        load_model(tmp_path / "llama_3", device="cpu", version="cmee")
    assert load_model(tmp_path / "llama_3", device="cpu").manifest["version"] == "v1"
    assert load_model(tmp_path / "llama_3", device="cpu", version="cme").manifest["version"] == "cme"


def test_a_base_without_a_chat_template_is_told_before_training(flags: Flags) -> None:
    with pytest.raises(UserError, match="--version chat takes the chat template of .*llama_3, but it has none"):
        train(flags("llama_3", "--version", "chat"))
    with pytest.raises(UserError, match="--version v1 ends answers in '</s>', which is not one token"):
        train(flags("llama_3"))


def test_looking_at_the_mix_before_training(
    flags: Flags, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with records.open("a") as file:
        file.write('{"instruction": "Sky?", "output": ""}\n')
    given = flags("llama_3", "--version", "cme", "--check_data", "True")
    with pytest.raises(UserError, match="record 24"):
        train([*given, "--dry_run", "True"])
    assert train([*given, "--on_bad_sample", "skip", "--dry_run", "True"]) == 0
    shown = capsys.readouterr().out
    assert "24 conversations (24 text-only)" in shown and "1 left out" in shown
    assert "⟦red<|end_of_text|>⟧" in shown
    json_file = tmp_path / "ids.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:24]))
    looked = [
        "data",
        "inspect",
        "--data_path",
        str(records),
        "--version",
        "cme",
        "--tokenizer",
        str(tmp_path / "llama_3"),
    ]
    assert main([*looked, "--limit", "2"]) == 0
    assert "Sky 0?\nLook up.<|end_of_text|>⟦red<|end_of_text|>⟧" in capsys.readouterr().out
    assert main([*looked, "--limit", "1", "--json", str(json_file)]) == 0
    row = json.loads(json_file.read_text())
    assert row["input_ids"][0] == 256 and row["n_images"] == 0  # the bos stands behind 256 bytes


def test_a_resumed_run_of_the_mix_equals_a_straight_one(flags: Flags, tmp_path: Path) -> None:
    given = flags("qwen2_instruct", "--version", "chat", "--save_total_limit", "9")
    assert train(given) == 0
    run = tmp_path / "run"
    straight = load_file(run / "adapter_model.safetensors")
    for name in ("run.yaml", "adapter_model.safetensors"):
        (run / name).unlink()
    (run / "checkpoint-3").rename(tmp_path / "aside")
    assert train(given) == 0
    resumed = load_file(run / "adapter_model.safetensors")
    assert all(torch.equal(weight, resumed[name]) for name, weight in straight.items())
