"""Bases put together from parts: every tower and projector trains and comes back; its parts may move, not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_bases import make_clip, make_language_model, make_siglip
from PIL import Image
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.training.run import train

Train = Callable[..., Path]


@pytest.fixture
def composed(tiny: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Flags of a language model of that type with that tower."""

    def make(tower: str = "clip", model_type: str = "llama") -> list[str]:
        llm = make_language_model(tmp_path / "llm", tiny, model_type)
        folder = tmp_path / "tower"
        path = make_clip(folder, tiny) if tower == "clip" else make_siglip(folder)
        return ["--model_name_or_path", llm, "--vision_tower", path, "--max_steps", "2"]

    return make


@pytest.mark.parametrize(
    ("tower", "model_type", "projector"),
    [("siglip", "qwen2", "mlp3x_gelu"), ("clip", "phi3", "linear"), ("clip", "mistral", "mlp2x_gelu")],
)
def test_parts_train_and_come_back(
    trained: Train, composed: Callable[..., list[str]], tower: str, model_type: str, projector: str
) -> None:
    run = trained(*composed(tower, model_type), "--mm_projector_type", projector)
    weights = load_file(run / "adapter_model.safetensors")
    assert any("multi_modal_projector.linear_1" in name for name in weights)
    ffn = {"phi3": {"gate_up_proj", "down_proj"}}.get(model_type, {"gate_proj", "up_proj", "down_proj"})
    assert {name.split(".mlp.")[1].split(".")[0] for name in weights if "teamlora" in name} == ffn
    assert not any("vision_tower" in name for name in weights)
    loaded = load_model(run, device="cpu")
    picture = Image.new("RGB", (50, 20), (255, 0, 0))
    answer = Generator(loaded).generate([Query.ask("what color is it?", picture)], Decoding(3))[0]
    assert answer.finish == "stop" or len(answer.token_ids) == 3


def test_an_identity_has_nothing_to_train(argv: list[str], trained: Train, composed: Callable[..., list[str]]) -> None:
    flags = [*composed(), "--mm_projector_type", "identity"]
    with pytest.raises(UserError, match="has a projector without weights, so --mm_projector_lr has no effect"):
        train([*argv, *flags])
    at = argv.index("--mm_projector_lr")
    del argv[at : at + 2]
    assert not any("projector" in name for name in load_file(trained(*flags) / "adapter_model.safetensors"))
    load_model(trained(*flags), device="cpu")


def test_full_fine_tuning_of_parts_is_a_model_of_its_own(
    argv: list[str], trained: Train, composed: Callable[..., list[str]]
) -> None:
    at = argv.index("--dropout")
    del argv[at : at + 2]
    run = trained(*composed("siglip"), "--mm_projector_type", "linear", "--method", "full")
    loaded = load_model(run, device="cpu")
    assert loaded.model.model.multi_modal_projector.linears == 1
    assert loaded.vision is not None and loaded.vision.tokens_per_image == 16


def test_both_parts_may_move_but_not_change(trained: Train, composed: Callable[..., list[str]], tmp_path: Path) -> None:
    run = trained(*composed())
    before = load_model(run, device="cpu").model.state_dict()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(tmp_path / "tower", moved / "clip")
    with pytest.raises(UserError, match="tower is not there; say where it is with --vision_tower"):
        load_model(run, device="cpu")
    shutil.move(tmp_path / "llm", moved / "words")
    places = {"model_base": str(moved / "words"), "vision_tower": str(moved / "clip")}
    after = load_model(run, device="cpu", **places).model.state_dict()
    assert any("original_module" in name for name in before)  # the base's own projector, without the adapter
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    said = ["--model_base", places["model_base"], "--vision_tower", places["vision_tower"]]
    assert main(["merge", str(run), "--output", str(tmp_path / "merged"), *said]) == 1  # routed: not exactly
    with (moved / "clip" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(UserError, match="was trained on a base with fingerprint"):
        load_model(run, device="cpu", **places)
