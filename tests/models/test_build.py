"""Bases are loaded whole or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from made_bases import make_language_model
from safetensors.torch import load_file, save_file

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import BaseSpec, load_base, resolve_attention
from llava_teamlora.models.fingerprint import fingerprint

Parts = tuple[str, str]


def test_finished_llava(tiny: str) -> None:
    base = load_base(BaseSpec(tiny))
    assert type(base.model).__name__ == "LlavaForConditionalGeneration"
    assert base.tokenizer.convert_ids_to_tokens(base.image_token_id) == "<image>"
    vision = base.model.config.vision_config
    assert base.tokens_per_image == (vision.image_size // vision.patch_size) ** 2


def test_composed_llava_runs_and_keeps_its_parts(parts: Parts) -> None:
    llm, clip = parts
    base = load_base(BaseSpec(llm, clip))
    words = load_file(Path(llm) / "model.safetensors")
    tower = load_file(Path(clip) / "model.safetensors")
    state = base.model.state_dict()
    assert not any(value.is_meta for value in state.values())
    name = "layers.1.mlp.up_proj.weight"
    assert torch.equal(state[f"model.language_model.{name}"], words[f"model.{name}"])
    rows = words["model.embed_tokens.weight"].shape[0]
    assert torch.equal(state["model.language_model.embed_tokens.weight"][:rows], words["model.embed_tokens.weight"])
    key = next(k for k in tower if k.endswith("layers.2.mlp.fc1.weight") and "vision" in k)
    ours = next(k for k in state if k.startswith("model.vision_tower") and k.endswith("layers.2.mlp.fc1.weight"))
    assert torch.equal(state[ours], tower[key])
    ids = torch.tensor([[1, *[base.image_token_id] * base.tokens_per_image, 5]])
    out = base.model(input_ids=ids, pixel_values=torch.zeros(1, 3, 64, 64), labels=ids)
    assert out.loss.isfinite()


def test_pretrained_projector(parts: Parts, tmp_path: Path) -> None:
    llm, clip = parts
    weights = {
        f"model.mm_projector.{layer}.{kind}": torch.randn((16, 16) if kind == "weight" else (16,))
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }
    torch.save(weights, tmp_path / "mm_projector.bin")
    base = load_base(BaseSpec(llm, clip, projector_weights=str(tmp_path / "mm_projector.bin")))
    assert torch.equal(base.model.model.multi_modal_projector.linear_2.bias, weights["model.mm_projector.2.bias"])
    torch.save({**weights, "model.mm_projector.4.bias": torch.zeros(1)}, tmp_path / "odd.bin")
    with pytest.raises(UserError, match="unexpected key 'model.mm_projector.4.bias'"):
        load_base(BaseSpec(llm, clip, projector_weights=str(tmp_path / "odd.bin")))
    weights.popitem()
    save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="but the model's projector is"):
        load_base(BaseSpec(llm, clip, projector_weights=str(tmp_path / "short.safetensors")))
    with pytest.raises(UserError, match="no such file"):
        load_base(BaseSpec(llm, clip, projector_weights=str(tmp_path / "none.bin")))


def test_wrong_combinations_are_refused(parts: Parts, tiny: str, tmp_path: Path) -> None:
    llm, clip = parts
    with pytest.raises(UserError, match="without a vision tower, so --mm_vision_select_layer -1 has no effect"):
        load_base(BaseSpec(llm, select_layer=-1))
    with pytest.raises(UserError, match="drop --vision_tower"):
        load_base(BaseSpec(tiny, clip))
    with pytest.raises(UserError, match="is a 'llama' model, not a CLIP or SigLIP vision tower"):
        load_base(BaseSpec(llm, llm))
    with pytest.raises(UserError, match="was trained on the tower's layer -2; drop --mm_vision_select_layer -1"):
        load_base(BaseSpec(tiny, select_layer=-1))
    with pytest.raises(UserError, match="drop --mm_vision_select_feature cls_patch"):
        load_base(BaseSpec(tiny, select_feature="cls_patch"))
    assert load_base(BaseSpec(tiny, select_layer=-2, select_feature="patch"))
    with pytest.raises(UserError, match="holds no config.json"):
        load_base(BaseSpec(str(tmp_path)))
    with pytest.raises(UserError, match="none: no such folder"):
        load_base(BaseSpec(str(tmp_path / "none")))
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-12").mkdir()
    with pytest.raises(UserError, match="did not finish: use .*checkpoint-12, or run it to its end"):
        load_base(BaseSpec(str(tmp_path)))


def test_cls_patch_counts_one_more(parts: Parts) -> None:
    assert load_base(BaseSpec(*parts, select_feature="cls_patch")).tokens_per_image == 17


def test_missing_and_unexpected_weights_are_errors(tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    key = next(k for k in weights if k.endswith("linear_1.weight"))
    renamed = {("extra" if k == key else k): v for k, v in weights.items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(first: .*linear_1.weight\), 1 unexpected \(first: extra\)"):
        load_base(BaseSpec(str(folder)))


def test_unreadable_bases_end_in_one_line(tiny: str, tmp_path: Path) -> None:
    for lost in ("model.safetensors", "tokenizer.json"):
        folder = tmp_path / lost
        shutil.copytree(tiny, folder)
        (folder / lost).unlink()
        with pytest.raises(UserError, match="cannot be loaded"):
            load_base(BaseSpec(str(folder)))
    (tmp_path / "tokenizer.json" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base(BaseSpec(str(tmp_path / "tokenizer.json")))
    (tmp_path / "odd.bin").write_text("{}")
    with pytest.raises(UserError, match="odd.bin: is no file of weights"):
        load_base(BaseSpec(tiny, projector_weights=str(tmp_path / "odd.bin")))
    torch.save([1], tmp_path / "list.bin")
    with pytest.raises(UserError, match="expected names and tensors"):
        load_base(BaseSpec(tiny, projector_weights=str(tmp_path / "list.bin")))


def test_new_vocabulary_rows_are_the_same_each_time(parts: Parts) -> None:
    first, second = (load_base(BaseSpec(*parts)).model for _ in range(2))
    for one, two in ((m.get_input_embeddings(), m.get_output_embeddings()) for m in (first, second)):
        assert one.weight.shape == two.weight.shape
    assert torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)
    assert torch.equal(first.get_output_embeddings().weight, second.get_output_embeddings().weight)


def test_original_llava_is_told_apart_by_its_config(tmp_path: Path) -> None:
    config = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has the config of an original LLaVA, but neither weights"):
        load_base(BaseSpec(str(tmp_path)))


def test_fingerprint_follows_content_not_place(tiny: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    assert fingerprint(str(copy)) == fingerprint(tiny)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    assert fingerprint(str(copy)) != fingerprint(tiny)
    with pytest.raises(UserError, match="neither a folder here nor a model in the hub's cache"):
        fingerprint(str(tmp_path / "none"))


def test_attention_is_never_chosen_in_silence() -> None:
    assert resolve_attention("auto", torch.float32) == "sdpa"
    with pytest.raises(UserError, match="is not one of auto"):
        resolve_attention("flash", torch.float32)
    with pytest.raises(UserError, match="flash_attention_2 needs"):
        resolve_attention("flash_attention_2", torch.float32)


def test_language_models_a_llava_cannot_compute_are_refused(parts: Parts, tiny: str, tmp_path: Path) -> None:
    """Their logits are more than a product with the head, or their embeddings have another name."""
    for model_type, reason in {
        "gemma2": "final_logit_softcapping",
        "gpt2": "other embeddings or a bias",
        "phi": "other embeddings or a bias",
    }.items():
        llm = make_language_model(tmp_path / model_type, tiny, model_type)
        assert load_base(BaseSpec(llm)).image_token_id is None  # alone it is fine
        with pytest.raises(UserError, match=f"cannot stand behind a vision tower: .* {reason}"):
            load_base(BaseSpec(llm, parts[1]))


@pytest.mark.parametrize("model_type", ["qwen2", "mistral", "gemma", "phi3"])
def test_a_llava_says_what_its_language_model_says(parts: Parts, tiny: str, tmp_path: Path, model_type: str) -> None:
    fields = {"head_dim": 8} if model_type == "gemma" else {}
    llm = make_language_model(tmp_path / model_type, tiny, model_type, **fields)
    alone, seeing = load_base(BaseSpec(llm)), load_base(BaseSpec(llm, parts[1]))
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        words = alone.model(input_ids=ids).logits
        assert torch.equal(seeing.model(input_ids=ids).logits[..., : words.shape[-1]], words)


def test_a_hub_model_is_named_by_its_content(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--someone--llm" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(parts[0], snapshot)
    (tmp_path / "models--someone--llm" / "refs").mkdir()
    (tmp_path / "models--someone--llm" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert fingerprint("someone/llm") == fingerprint(parts[0])
