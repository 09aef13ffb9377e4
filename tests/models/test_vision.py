"""Towers: the features are transformers' own, cost no more than they must, and never learn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from made_bases import make_clip, make_language_model, make_siglip
from PIL import Image
from transformers import CLIPVisionModel, SiglipVisionModel
from transformers.models.llava import modeling_llava

from llava_teamlora.data.images import prepare_image
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, BaseSpec, load_base
from llava_teamlora.models.vision import load_image_processor, tower_features

Parts = tuple[str, str]


def pixels(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def forward(base: Base, images: int = 2, **kwargs: Any) -> Any:
    """A pass over two pictures in one row each, as training makes it."""
    size = base.model.config.vision_config.image_size
    ids = torch.tensor([[1, *[base.image_token_id] * base.tokens_per_image, 5, 9]] * images)
    return base.model(input_ids=ids, pixel_values=pixels(size), labels=ids, **kwargs)


@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 0, 1, 3])
@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_are_transformers_own(parts: Parts, siglip: str, kind: str, layer: int, strategy: str) -> None:
    tower: Any = (
        CLIPVisionModel.from_pretrained(parts[1]) if kind == "clip" else SiglipVisionModel.from_pretrained(siglip)
    )
    with torch.no_grad():
        states = tower(pixels(), output_hidden_states=True).hidden_states
    expected = states[layer][:, 1:] if strategy == "default" else states[layer]
    assert torch.equal(tower_features(tower, pixels(), layer, strategy), expected)


def test_several_layers_are_concatenated_as_in_transformers(parts: Parts) -> None:
    base = load_base(BaseSpec(*parts))
    config = base.model.config
    config.vision_feature_layer = [-1, 1]
    theirs = modeling_llava.LlavaForConditionalGeneration(config)
    ours = type(base.model)(config)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        wanted = theirs.get_image_features(pixels()).pooler_output
        found = ours.get_image_features(pixels()).pooler_output
    assert all(torch.equal(*pair) for pair in zip(wanted, found, strict=True))


@pytest.mark.parametrize("size", [64, 50])  # 50 / 16: three patches, two pixels are left over
@pytest.mark.parametrize(("kind", "feature"), [("clip", "patch"), ("clip", "cls_patch"), ("siglip", "patch")])
def test_as_many_tokens_as_features(tiny: str, tmp_path: Path, kind: str, feature: str, size: int) -> None:
    llm, folder = make_language_model(tmp_path / "llm", tiny), tmp_path / "tower"
    is_clip = kind == "clip"
    tower = make_clip(folder, tiny, image_size=size) if is_clip else make_siglip(folder, image_size=size)
    base = load_base(BaseSpec(llm, tower, select_feature=feature))
    assert base.tokens_per_image == (size // 16) ** 2 + (feature == "cls_patch")
    assert base.model.config.image_seq_length == base.tokens_per_image
    picture = Image.new("RGB", (90, 30), (255, 0, 0))
    made = prepare_image(picture, base.image_processor, "pad")
    assert made.shape == (3, size, size)
    features = base.model.get_image_features(pixel_values=made[None]).pooler_output[0]
    assert features.shape == (base.tokens_per_image, 16)
    assert forward(base).loss.isfinite()  # transformers compares the numbers too


def test_siglip_pixels_are_centred_on_one_half(siglip: str) -> None:
    base_config = SiglipVisionModel.from_pretrained(siglip).config
    processor = load_image_processor(siglip, base_config)
    made = prepare_image(Image.new("RGB", (80, 40), (255, 255, 255)), processor, "pad")
    assert made[:, 32].allclose(torch.tensor(1.0))  # white: (1 - 0.5) / 0.5
    assert made[:, 0].allclose(torch.tensor(127 / 127.5 - 1))  # LLaVA's background, int(0.5 * 255)


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_the_tower_costs_one_pass_and_has_no_graph(parts: Parts, checkpointing: bool | None) -> None:
    """In training, with inputs that require gradients: every layer up to the chosen one runs once, no other at all."""
    base = load_base(BaseSpec(*parts))
    tower: Any = base.model.model.vision_tower
    base.model.requires_grad_(False)
    base.model.model.multi_modal_projector.requires_grad_(True)
    base.model.enable_input_require_grads()  # transformers makes the tower's patches require gradients too
    if checkpointing is not None:
        base.model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    runs: Counter[int] = Counter()
    for number, layer in enumerate(tower.encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: runs.update([number]))
    kept: list[torch.Size] = []
    width = tower.config.intermediate_size
    base.model.train()
    assert base.model.model.language_model.training and not any(m.training for m in tower.modules())

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = tower_features(tower, pixels(), -2, "full")
        assert not features.requires_grad and not kept
    runs.clear()
    forward(base).loss.backward()
    assert runs == {0: 1, 1: 1}  # of three layers; the last is never needed
    assert width == 32 and base.model.model.multi_modal_projector.linear_1.weight.grad.any()
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_what_a_tower_does_not_have_is_refused(parts: Parts, siglip: str, tiny: str, tmp_path: Path) -> None:
    llm, clip = parts
    with pytest.raises(UserError, match="has 3 layers, so --mm_vision_select_layer must be between -4 and 3"):
        load_base(BaseSpec(llm, clip, select_layer=4))
    with pytest.raises(UserError, match="not -5"):
        load_base(BaseSpec(llm, siglip, select_layer=-5))
    with pytest.raises(UserError, match="has no cls token; drop --mm_vision_select_feature cls_patch"):
        load_base(BaseSpec(llm, siglip, select_feature="cls_patch"))
    with pytest.raises(UserError, match="'cls' is not one of patch, cls_patch"):
        load_base(BaseSpec(llm, clip, select_feature="cls"))
    odd = make_clip(tmp_path / "odd", tiny)
    load_image_processor(odd, CLIPVisionModel.from_pretrained(odd).config)
    make_siglip(tmp_path / "small", image_size=32)
    (tmp_path / "odd" / "preprocessor_config.json").write_text('{"crop_size": {"height": 32, "width": 32}}')
    with pytest.raises(UserError, match="makes 32 x 32 pixels, but the vision tower takes 64 x 64"):
        load_base(BaseSpec(llm, odd))


def test_a_siglip_llava_survives_saving(parts: Parts, siglip: str, tmp_path: Path) -> None:
    base = load_base(BaseSpec(parts[0], siglip, projector_type="linear"))
    base.model.save_pretrained(tmp_path / "whole")
    base.tokenizer.save_pretrained(tmp_path / "whole")
    base.image_processor.save_pretrained(tmp_path / "whole")
    again = load_base(BaseSpec(str(tmp_path / "whole")))
    assert (again.tokens_per_image, again.image_token_id) == (base.tokens_per_image, base.image_token_id)
    with torch.no_grad():
        assert torch.equal(forward(base).logits, forward(again).logits)
    picture = Image.linear_gradient("L").convert("RGB")
    made, remade = (prepare_image(picture, each.image_processor, "pad") for each in (base, again))
    assert torch.equal(made, remade)
