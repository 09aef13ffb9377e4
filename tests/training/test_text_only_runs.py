"""Language models alone: every kind of base trains on text, resumes, answers, is merged and is told what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_bases import make_language_model
from PIL import Image
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.run import train

Flags = Callable[..., list[str]]

WORDS = ("red", "green", "blue", "black")


@pytest.fixture
def text_data(tmp_path: Path) -> Path:
    """12 conversations without pictures."""
    rows = [
        {
            "id": str(index),
            "conversations": [
                {"from": "human", "value": f"what color is it? {WORDS[index % 3]}"},
                {"from": "gpt", "value": WORDS[index % 3]},
            ],
        }
        for index in range(12)
    ]
    path = tmp_path / "text.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def flags(tiny: str, text_data: Path, tmp_path: Path) -> Flags:
    """Flags of a three-step run of a language model of that type on the texts."""

    def make(model_type: str = "llama", *extra: str, **fields: object) -> list[str]:
        folder = tmp_path / model_type
        if not folder.exists():
            make_language_model(folder, tiny, model_type, **fields)
        return [
            "--model_name_or_path", str(folder), "--data_path", str(text_data), "--output_dir", str(tmp_path / "run"),
            "--use_cpu", "True", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2",
            "--logging_steps", "1", "--save_steps", "2", "--report_to", "none", "--disable_tqdm", "True", *extra,
        ]  # fmt: skip

    return make


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mistral", "gemma3_text", "phi3", "starcoder2", "gpt2"])
def test_a_language_model_trains_its_ffn_and_answers(flags: Flags, tmp_path: Path, model_type: str) -> None:
    fields = {"head_dim": 8} if model_type == "gemma3_text" else {}
    assert train(flags(model_type, **fields)) == 0
    run = tmp_path / "run"
    weights = load_file(run / "adapter_model.safetensors")
    assert all("mlp" in name for name in weights)
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "teamlora_B" in name)
    assert not (run / "preprocessor_config.json").exists()
    loaded = load_model(run, device="cpu")
    assert loaded.vision is None
    queries = [Query.ask("what color is it? red"), Query.ask("blue")]
    answers = Generator(loaded).generate(queries, Decoding(8))
    assert answers == [Generator(loaded).generate([query], Decoding(8))[0] for query in queries]
    with pytest.raises(UserError, match="is a text-only model and takes no pictures"):
        Generator(loaded).generate([Query.ask("what is it?", Image.new("RGB", (8, 8)))], Decoding(8))


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "prompt_tuning", "full", "moslora"])
def test_every_method_trains_a_language_model(flags: Flags, tmp_path: Path, method: str) -> None:
    extra = ["--num_train_epochs", "2"] if method == "adalora" else []
    assert train(flags("qwen2", "--method", method, *extra)) == 0
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] != losses[0]
    loaded = load_model(tmp_path / "run", device="cpu")
    answer = Generator(loaded).generate([Query.ask("what color is it? red")], Decoding(4))[0]
    assert answer.finish == "stop" or len(answer.token_ids) == 4


def test_a_resumed_text_run_equals_a_straight_one(flags: Flags, tmp_path: Path) -> None:
    assert train(flags()) == 0
    run = tmp_path / "run"
    straight = load_file(run / "adapter_model.safetensors")
    (run / "run.yaml").unlink()
    (run / "adapter_model.safetensors").unlink()
    for folder in run.glob("checkpoint-3"):
        folder.rename(tmp_path / "aside")
    assert train(flags("llama", "--save_total_limit", "9")) == 0
    resumed = load_file(run / "adapter_model.safetensors")
    assert all(torch.equal(weight, resumed[name]) for name, weight in straight.items())
    assert read_run_card(run).base.vision_tower is None


def test_merging_a_language_model(flags: Flags, tmp_path: Path) -> None:
    assert train(flags("mistral", "--method", "lora")) == 0
    assert main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]) == 0
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        before = load_model(tmp_path / "run", device="cpu").model(input_ids=ids).logits
        after = load_model(tmp_path / "merged", device="cpu").model(input_ids=ids).logits
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_pictures_and_vision_flags_are_refused(flags: Flags, text_data: Path) -> None:
    for extra, message in {
        ("--mm_projector_lr", "1e-4"): "has no projector, so --mm_projector_lr has no effect",
        ("--freeze_mm_mlp_adapter", "True"): "has no projector, so --freeze_mm_mlp_adapter has no effect",
        ("--method", "projector"): "has no projector, so --method projector has no effect",
        ("--mm_vision_select_layer", "-2"): "without a vision tower, so --mm_vision_select_layer -2 has no effect",
        ("--mm_projector_type", "linear"): "without a vision tower, so --mm_projector_type linear has no effect",
    }.items():
        with pytest.raises(UserError, match=message):
            train(flags("llama", *extra))
    rows = json.loads(text_data.read_text())
    rows[3] |= {"image": "3.png"}
    rows[3]["conversations"][0]["value"] = "<image>\nwhat is it?"
    text_data.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"record 3 \(id 3\): has a picture, but .*sees none; add --vision_tower"):
        train(flags("llama"))


@pytest.mark.parametrize("method", ["teamlora", "lora", "ia3"])
def test_unknown_feed_forward_linears_must_be_named(flags: Flags, method: str) -> None:
    """A mixture of experts keeps its FFN in one tensor, which no linear adapter can sit on."""
    fields = {"num_local_experts": 2, "num_experts_per_tok": 1}
    named = "--target_modules and --feedforward_modules" if method == "ia3" else "--target_modules"
    with pytest.raises(UserError, match=f"'mixtral' model .* name them with {named}, .*; it has k_proj, o_proj"):
        train(flags("mixtral", "--method", method, **fields))
    if method == "lora":
        assert train(flags("mixtral", "--method", method, "--target_modules", r".*\.(q_proj|o_proj)")) == 0
