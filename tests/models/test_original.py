"""Original LLaVA folders compute what LLaVA computes, or are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_originals import IMAGE, Originals, make_originals
from safetensors.torch import save_file
from transformers import AutoTokenizer

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, BaseSpec, load_base, takes_pictures
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.models.original import find_original

IDS = [1, 20, 30, IMAGE, 40, 50, 60]


@pytest.fixture
def originals(tmp_path: Path, tiny: str) -> Originals:
    return make_originals(tmp_path, tiny)


def pixels() -> torch.Tensor:
    return torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(base: Base, vocabulary: int = 820) -> torch.Tensor:
    """Of the vocabulary without ``<image>``, at every position: ``[T, V]``."""
    assert base.image_token_id is not None
    ids = [[base.image_token_id] * base.tokens_per_image if token == IMAGE else [token] for token in IDS]
    tensor = torch.tensor([[token for part in ids for token in part]])
    return base.model.eval()(input_ids=tensor, pixel_values=pixels()[None]).logits[0, :, :vocabulary]


@pytest.mark.parametrize("tower", [False, True])
def test_a_full_folder_computes_what_llava_does(originals: Originals, tower: bool) -> None:
    folder = originals.full(tower=tower)
    base = load_base(BaseSpec(str(folder)))
    assert torch.equal(logits(base), originals.logits(IDS, pixels()))
    assert base.tokenizer.convert_tokens_to_ids("<image>") == base.image_token_id == 820
    assert base.tokenizer.model_max_length == 2048 and base.tokens_per_image == 16
    assert takes_pictures(BaseSpec(str(folder)))


def test_safetensors_and_old_buffers(originals: Originals) -> None:
    folder = originals.folder("safe", model_type="llava", mm_projector_type="mlp2x_gelu")
    weights = originals.full_weights(tower=True)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for path in (originals.root / "llm").glob("token*"):
        shutil.copy(path, folder)
    base = load_base(BaseSpec(str(folder)))
    assert torch.equal(logits(base), originals.logits(IDS, pixels()))
    own = AutoTokenizer.from_pretrained(originals.root / "llm")
    assert base.tokenizer("what color is it?")["input_ids"] == own("what color is it?")["input_ids"]


def test_weights_of_a_tower_in_the_folder_count(originals: Originals) -> None:
    """LLaVA names a tower and, with ``unfreeze_mm_vision_tower``, keeps another one's weights."""
    expected = originals.logits(IDS, pixels())
    folder = originals.full(tower=True)
    with torch.no_grad():
        for weight in originals.tower.parameters():
            weight.add_(1.0)
    originals.tower.save_pretrained(originals.root / "clip")
    assert torch.equal(logits(load_base(BaseSpec(str(folder)))), expected)


@pytest.mark.parametrize("say_base", [False, True])
def test_a_lora_is_merged_into_its_base(originals: Originals, say_base: bool) -> None:
    llm = str(originals.root / "llm")
    folder = originals.lora(base="somewhere/else") if say_base else originals.lora()
    spec = BaseSpec(str(folder), model_base=llm if say_base else None)
    expected = originals.logits(IDS, pixels(), originals.merged())
    assert (expected - originals.logits(IDS, pixels())).abs().max() > 0.1
    torch.testing.assert_close(logits(load_base(spec)), expected, rtol=1e-5, atol=1e-5)


def test_a_lora_upon_a_llava(originals: Originals) -> None:
    """As finetune_task_lora.sh leaves it; without a projector of its own, the base's stays."""
    folder = originals.lora(base=str(originals.full()))
    expected = originals.logits(IDS, pixels(), originals.merged())
    torch.testing.assert_close(logits(load_base(BaseSpec(str(folder)))), expected, rtol=1e-5, atol=1e-5)
    torch.save({}, folder / "non_lora_trainables.bin")
    torch.testing.assert_close(logits(load_base(BaseSpec(str(folder)))), expected, rtol=1e-5, atol=1e-5)


def test_a_projector_upon_its_language_model(originals: Originals) -> None:
    base = load_base(BaseSpec(str(originals.pretrained())))
    assert torch.equal(logits(base), originals.logits(IDS, pixels()))


def test_a_tower_that_lies_elsewhere(originals: Originals) -> None:
    folder = originals.full(mm_vision_tower="/nowhere/clip")
    with pytest.raises(UserError, match="/nowhere/clip.*--vision_tower"):
        load_base(BaseSpec(str(folder)))
    base = load_base(BaseSpec(str(folder), vision_tower=str(originals.root / "clip")))
    assert torch.equal(logits(base), originals.logits(IDS, pixels()))


def test_tokens_around_pictures_are_kept(originals: Originals) -> None:
    """``mm_use_im_start_end`` with ``mm_use_im_patch_token``: 820 to 822, their rows in the file."""
    folder = originals.lora(mm_use_im_start_end=True, mm_use_im_patch_token=True, vocab_size=823)
    path = folder / "non_lora_trainables.bin"
    rows = torch.randn(823, 16)
    extra = {"base_model.model.model.embed_tokens.weight": rows, "base_model.model.lm_head.weight": -rows}
    torch.save({**torch.load(path, weights_only=True), **extra}, path)
    base = load_base(BaseSpec(str(folder)))
    names = ["<im_patch>", "<im_start>", "<im_end>", "<image>"]
    assert base.tokenizer.convert_tokens_to_ids(names) == [820, 821, 822, 823]
    assert torch.equal(base.model.get_input_embeddings().weight[:823], rows)
    assert torch.equal(base.model.get_output_embeddings().weight[:823], -rows)
    assert base.model.config.mm_use_im_start_end


BROKEN: dict[str, tuple[str, str]] = {
    "missing key": ("full", "1 missing .*layers.1.mlp.up_proj.weight"),
    "extra key": ("full", "1 unexpected .*model.image_newline"),
    "wrong shape": ("full", "1 misshapen .*model.norm.weight"),
    "projector's missing key": ("full", r"mm_projector|linear_2.bias"),
    "projector's wrong shape": ("full", "the model's projector is"),
    "tower's missing key": ("full", "post_layernorm.weight is absent"),
    "truncated bin": ("full", "pytorch_model-00001-of-00002.bin|cannot be loaded"),
    "missing shard": ("full", "pytorch_model-00002-of-00002.bin"),
    "index of an absent file": ("full", "pytorch_model-00003-of-00002.bin"),
    "no non_lora": ("lora", "no non_lora_trainables.bin, which has its projector"),
    "no adapter": ("lora", "none of adapter_model.safetensors, adapter_model.bin"),
    "truncated adapter": ("lora", "adapter_model.bin: is no file of weights"),
    "A alone": ("lora", "has lora_A of model.layers.0.mlp.down_proj alone"),
    "a layer's lora missing": ("lora", "lacks lora_A and lora_B of model.layers.1.mlp.down_proj"),
    "lora of another size": ("lora", r"do not fit the base's .*--model_base"),
    "lora of more layers": ("lora", r"adapts model.layers.9.mlp.down_proj, which the base does not have"),
    "dora": ("lora", "use_dora is True, more than"),
    "foreign trainable": ("lora", "holds 'model.vision_resampler.weight'"),
    "empty": ("projector", "holds no projector"),
}


def break_it(folder: Path, how: str) -> None:
    if how == "truncated bin":
        path = folder / "pytorch_model-00001-of-00002.bin"
        path.write_bytes(path.read_bytes()[:200])
    elif how == "missing shard":
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
    elif how == "index of an absent file":
        path = folder / "pytorch_model.bin.index.json"
        path.write_text(path.read_text().replace("-00002-of", "-00003-of"))
    elif how in ("no non_lora", "no adapter"):
        (folder / {"no non_lora": "non_lora_trainables.bin", "no adapter": "adapter_model.bin"}[how]).unlink()
    elif how == "truncated adapter":
        path = folder / "adapter_model.bin"
        path.write_bytes(path.read_bytes()[:200])
    elif how == "dora":
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    elif how == "empty":
        torch.save({}, folder / "mm_projector.bin")
    else:
        for path in sorted(folder.glob("*.bin")):
            weights = torch.load(path, weights_only=True)
            torch.save(changed(weights, how, path.name), path)


def changed(weights: dict[str, Any], how: str, file: str) -> dict[str, Any]:
    def without(end: str) -> dict[str, Any]:
        return {name: value for name, value in weights.items() if not name.endswith(end)}

    def cut(end: str) -> dict[str, Any]:
        return {name: value[:-1].clone() if name.endswith(end) else value for name, value in weights.items()}

    down = "base_model.model.model.layers.{}.mlp.down_proj.lora_{}.weight"
    if how == "foreign trainable":
        extra = "base_model.model.model.vision_resampler.weight"
        return weights | ({extra: torch.ones(1)} if file.startswith("non_lora") else {})
    if how == "lora of more layers":
        return {name.replace("layers.1.mlp", "layers.9.mlp"): value for name, value in weights.items()} | weights
    return {
        "missing key": lambda: without("layers.1.mlp.up_proj.weight"),
        "extra key": lambda: weights | ({"model.image_newline": torch.ones(16)} if "00001" in file else {}),
        "wrong shape": lambda: cut("model.norm.weight"),
        "projector's missing key": lambda: without("mm_projector.2.bias"),
        "projector's wrong shape": lambda: cut("mm_projector.2.bias"),
        "tower's missing key": lambda: without("post_layernorm.weight"),
        "A alone": lambda: without(down.format(0, "B")),
        "a layer's lora missing": lambda: {k: v for k, v in weights.items() if ".1.mlp.down_proj.lora" not in k},
        "lora of another size": lambda: cut(down.format(1, "B")),
    }[how]()


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_named(originals: Originals, how: str) -> None:
    kind, message = BROKEN[how]
    make = {"full": lambda: originals.full(tower=True), "lora": originals.lora, "projector": originals.pretrained}
    folder = make[kind]()
    load_base(BaseSpec(str(folder)))
    break_it(folder, how)
    with pytest.raises(UserError, match=message):
        load_base(BaseSpec(str(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type is 'spatial_unpad': a LLaVA-NeXT"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"model_type": "llava_mistral"}, "is an original LLaVA of type 'llava_mistral'"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer is None, not a layer's number"),
        ({"mm_vision_select_layer": -9}, "-9"),
        ({"mm_projector_type": "mlp3x_gelu"}, "holds a mlp2x_gelu projector, but the model's is mlp3x_gelu"),
        ({"hidden_size": 32}, "misshapen|do not fit"),
    ],
)
def test_configs_that_are_refused(originals: Originals, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_base(BaseSpec(str(originals.full(**changes))))


def test_flags_that_contradict_the_folder(originals: Originals) -> None:
    full, lora, projector = str(originals.full()), str(originals.lora(base="")), str(originals.pretrained())
    llm = str(originals.root / "llm")
    for spec, message in (
        (BaseSpec(full, select_layer=-1), "was trained with --mm_vision_select_layer -2; drop"),
        (BaseSpec(full, projector_type="linear"), "was trained with --mm_projector_type mlp2x_gelu"),
        (BaseSpec(full, model_base=llm), "is a whole LLaVA; drop --model_base"),
        (BaseSpec(lora), "does not say which language model it belongs to; name it with --model_base"),
        (BaseSpec(lora, model_base=lora), "cannot be its own base"),
        (BaseSpec(lora, model_base=llm, bits=4), "its LoRA cannot be merged into 4-bit weights"),
        (BaseSpec(projector, model_base="/nowhere/llm"), "/nowhere/llm"),
        (BaseSpec(llm, vision_tower=str(originals.root / "clip"), model_base=llm), "drop --model_base"),
    ):
        with pytest.raises(UserError, match=message):
            load_base(spec)
    assert load_base(BaseSpec(full, select_layer=-2, select_feature="patch", projector_type="mlp2x_gelu"))


def test_the_path_decides_nothing(originals: Originals, tmp_path: Path) -> None:
    full = originals.full("a-llava-lora-mpt-mistral")
    found = find_original(str(full))
    assert found is not None and found.kind == "full"
    assert find_original(str(originals.root / "llm")) is None
    assert find_original(str(tmp_path / "none")) is None


def test_the_fingerprint_is_of_all_parts(originals: Originals) -> None:
    lora, full = originals.lora(), originals.full()
    names = [BaseSpec(str(lora)), BaseSpec(str(full)), BaseSpec(str(originals.pretrained()))]
    before = [base_fingerprint(spec) for spec in names]
    assert len(set(before)) == 3
    moved = originals.root / "moved"
    shutil.move(originals.root / "llm", moved)
    assert base_fingerprint(BaseSpec(str(lora), model_base=str(moved))) == before[0]
    with torch.no_grad():
        next(originals.tower.parameters()).add_(1)
    originals.tower.save_pretrained(originals.root / "clip")
    assert base_fingerprint(BaseSpec(str(full))) != before[1]
    assert base_fingerprint(BaseSpec(str(lora), model_base=str(moved))) != before[0]


def test_weights_have_the_dtype_asked_for(originals: Originals) -> None:
    for folder in (originals.full(), originals.lora()):
        model = load_base(BaseSpec(str(folder)), torch.float16).model
        assert {(weight.dtype, weight.is_meta) for weight in model.parameters()} == {(torch.float16, False)}
