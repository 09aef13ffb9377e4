"""A base outlined from its config alone is the base, but for its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.outline import is_outlining, outlining


def without_weights(folder: str, to: Path) -> str:
    """A copy of a model's folder that holds no weights."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    return str(to)


@pytest.mark.parametrize("kind", ["finished", "composed", "text"])
def test_an_outline_has_the_bases_names_shapes_and_dtypes(
    kind: str, tiny: str, parts: tuple[str, str], tmp_path: Path
) -> None:
    llm, clip = parts
    spec = {"finished": BaseSpec(tiny), "composed": BaseSpec(llm, clip), "text": BaseSpec(llm)}[kind]
    real = load_base(spec, torch.bfloat16)
    bare = BaseSpec(
        without_weights(spec.model, tmp_path / "model"),
        without_weights(clip, tmp_path / "clip") if spec.vision_tower else None,
    )
    with outlining():
        outline = load_base(bare, torch.bfloat16)
    assert outline.image_token_id == real.image_token_id and outline.tokens_per_image == real.tokens_per_image
    assert outline.tokenizer.get_vocab() == real.tokenizer.get_vocab()
    for tensors in ("named_parameters", "named_buffers"):
        theirs = {name: (tuple(t.shape), t.dtype) for name, t in getattr(real.model, tensors)()}
        ours = {name: (tuple(t.shape), t.dtype) for name, t in getattr(outline.model, tensors)()}
        assert ours == theirs
        assert all(t.is_meta for _, t in getattr(outline.model, tensors)())
    assert outline.model.config._attn_implementation == real.model.config._attn_implementation
    assert not is_outlining()
    with pytest.raises(UserError):
        load_base(bare)


def test_zero3_splits_no_outline(tiny: str) -> None:
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    assert is_deepspeed_zero3_enabled()
    with outlining():
        assert not is_deepspeed_zero3_enabled()
        model = load_base(BaseSpec(tiny)).model
    assert is_deepspeed_zero3_enabled() and config is not None
    assert not any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def test_a_projectors_file_is_checked_though_not_kept(parts: tuple[str, str], tmp_path: Path) -> None:
    llm, clip = parts
    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(3, 3)}, file)
    with outlining(), pytest.raises(UserError, match="mm_projector.bin"):
        load_base(BaseSpec(llm, clip, projector_weights=str(file)))
    right = {f"model.mm_projector.{n}.weight": torch.zeros(16, 16) for n in (0, 2)}
    torch.save({**right, **{f"model.mm_projector.{n}.bias": torch.zeros(16) for n in (0, 2)}}, file)
    with outlining():
        load_base(BaseSpec(llm, clip, projector_weights=str(file)))
