"""Projectors of every kind: what they compute, LLaVA's files of them, and folders that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_bases import make_clip
from safetensors.torch import load_file
from torch import nn
from transformers.models.llava import modeling_llava

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.projector import Projector, build_projector, count_linears, fill_projector, llava_keys

Parts = tuple[str, str]
KINDS = ["linear", "mlp1x_gelu", "mlp2x_gelu", "mlp3x_gelu"]


def llavas(kind: str, d_in: int, d_out: int) -> nn.Module:
    """A projector built the way that LLaVA's own files are numbered."""
    torch.manual_seed(3)
    if kind == "linear":
        return nn.Linear(d_in, d_out)
    layers: list[nn.Module] = [nn.Linear(d_in, d_out)]
    for _ in range(count_linears(kind) - 1):
        layers += [nn.GELU(), nn.Linear(d_out, d_out)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "mm_projector."])
@pytest.mark.parametrize("kind", KINDS)
def test_llavas_file_of_each_kind(parts: Parts, tiny: str, tmp_path: Path, kind: str, prefix: str) -> None:
    tower = make_clip(tmp_path / "wide", tiny, hidden_size=24)
    reference = llavas(kind, 24, 16)
    path = tmp_path / "mm_projector.bin"
    torch.save({prefix + name: value for name, value in reference.state_dict().items()}, path)
    base = load_base(BaseSpec(parts[0], tower, projector_weights=str(path), projector_type=kind))
    projector = base.model.model.multi_modal_projector
    features = torch.randn(2, 5, 24)
    assert torch.equal(projector(features), reference(features))
    names = llava_keys(kind, projector)
    assert {names[name] for name in projector.state_dict()} == reference.state_dict().keys()
    for other in KINDS:
        if other != kind:
            with pytest.raises(
                UserError, match=rf"holds a {kind} projector, but the model's is {other}|unexpected key"
            ):
                load_base(BaseSpec(parts[0], tower, projector_weights=str(path), projector_type=other))


def test_two_linears_are_transformers_own(parts: Parts) -> None:
    config = load_base(BaseSpec(*parts)).model.config
    torch.manual_seed(0)
    ours = build_projector(config)
    torch.manual_seed(0)
    theirs = modeling_llava.LlavaMultiModalProjector(config)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    features = torch.randn(2, 4, 16)
    assert torch.equal(ours(features), theirs(features))


def test_identity_wants_equal_widths(parts: Parts, tiny: str, tmp_path: Path) -> None:
    base = load_base(BaseSpec(*parts, projector_type="identity"))
    assert not list(base.model.model.multi_modal_projector.parameters())
    features = torch.randn(3, 16)
    assert torch.equal(base.model.model.multi_modal_projector(features), features)
    wide = make_clip(tmp_path / "wide", tiny, hidden_size=24)
    with pytest.raises(UserError, match="identity: the vision features are 24 wide and the language model 16"):
        load_base(BaseSpec(parts[0], wide, projector_type="identity"))
    torch.save({"mm_projector.weight": torch.zeros(16, 16)}, tmp_path / "mm_projector.bin")
    with pytest.raises(UserError, match="holds a linear projector, but the model's is identity"):
        load_base(BaseSpec(*parts, projector_type="identity", projector_weights=str(tmp_path / "mm_projector.bin")))


@pytest.mark.parametrize("kind", ["linear", "mlp3x_gelu", "identity"])
def test_a_whole_folder_brings_its_kind_back(parts: Parts, tmp_path: Path, kind: str) -> None:
    base = load_base(BaseSpec(*parts, projector_type=kind))
    for part in (base.model, base.tokenizer, base.image_processor):
        part.save_pretrained(tmp_path)
    saved = {name for name in load_file(tmp_path / "model.safetensors") if "projector" in name}
    assert len(saved) == 2 * count_linears(kind)
    again = load_base(BaseSpec(str(tmp_path)))
    state = again.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in base.model.state_dict().items())
    assert load_base(BaseSpec(str(tmp_path), projector_type=kind))
    with pytest.raises(UserError, match=f"has a projector of its own, {kind}; drop --mm_projector_type mlp2x_gelu"):
        load_base(BaseSpec(str(tmp_path), projector_type="mlp2x_gelu"))


def test_unknown_kinds_and_shapes_are_refused() -> None:
    for kind in ("mlp0x_gelu", "mlp2x_relu", "resampler", "mlp_gelu"):
        with pytest.raises(UserError, match="is not linear, identity or mlpNx_gelu"):
            count_linears(kind)
    projector = Projector(4, 8, 1)
    with pytest.raises(UserError, match=r"holds .*\(8, 5\).* but the model's projector is .*\(8, 4\)"):
        fill_projector(
            projector, "linear", {"mm_projector.weight": torch.zeros(8, 5), "mm_projector.bias": torch.zeros(8)}, "file"
        )
    assert not list(Projector(4, 8, 2, bias=False).linear_2.parameters())[1:]
