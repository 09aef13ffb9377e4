"""What becomes of packed linears when a model is saved, copied, switched to another adapter or differentiated."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import FFN, random_adapter, routed_config
from safetensors.torch import load_file, save_file, save_model
from test_packed import made, mlp_by_hand, tokens
from torch.autograd import forward_ad

from llava_teamlora.tuners.routed import choice
from llava_teamlora.tuners.routed.layer import routed_layers
from llava_teamlora.tuners.routed.packed import base_linear


def packed(model: Any) -> list[bool]:
    """Which linears of the MLP are: gate and up together, down alone."""
    return [layer.packed is not None for layer in routed_layers(model)]


def test_another_adapter_is_packed_anew() -> None:
    model = made()
    torch.manual_seed(5)
    model.add_adapter("other", routed_config("teamlora", target_modules=FFN, init_weights=False))
    model.double().eval().prepare_for_inference()
    with torch.no_grad():
        first = model(tokens(2))
        model.set_adapter("other")
        assert all(layer.packed is not None for layer in routed_layers(model))
        second = model(tokens(2))
    torch.testing.assert_close(second, mlp_by_hand(model, tokens(2)))
    assert not torch.allclose(first, second)
    model.base_model.set_adapter(["default", "other"])
    assert model.prepare_for_inference() == (0, {"several adapters are active": 3})


def test_saving_copying_and_unloading(tmp_path: Path) -> None:
    model: Any = random_adapter(routed_config("teamlora"))
    plain: Any = random_adapter(routed_config("teamlora"))
    model.prepare_for_inference()
    ids = torch.tensor([[3, 4, 5]])
    for kind, each in (("packed", model), ("plain", plain)):
        each.save_pretrained(tmp_path / kind)
    saved, wanted = ((tmp_path / kind / "adapter_model.safetensors").read_bytes() for kind in ("packed", "plain"))
    assert saved == wanted
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = plain(input_ids=ids).logits
        torch.testing.assert_close(twin(input_ids=ids).logits, expected)
        bare, bare_plain = model.unload(), plain.unload()
        assert torch.equal(bare(input_ids=ids).logits, bare_plain(input_ids=ids).logits)
    weight = bare.model.layers[0].mlp.up_proj.weight
    assert weight.untyped_storage().nbytes() == weight.nbytes


@pytest.mark.parametrize("others", [{"router_hidden": 4}, {"impl": "reference"}], ids=str)
def test_an_adapter_is_packed_again_after_one_that_cannot_be(others: dict[str, Any]) -> None:
    model = made()
    model.add_adapter("other", routed_config("teamlora", target_modules=FFN, init_weights=False, **others))
    model.double().eval().prepare_for_inference()
    with torch.no_grad():
        first = model(tokens(2))
        model.set_adapter("other")
        assert packed(model) == [False] * 3
        model(tokens(2))
        model.set_adapter("default")
        assert packed(model) == [True] * 3
        assert torch.equal(model(tokens(2)), first)


def test_nothing_is_packed_that_nobody_asked_for() -> None:
    for undo in ("restore_after_inference", "train"):
        model = made()
        model.prepare_for_inference()
        getattr(model, undo)()
        training = model.training
        model.set_adapter("default")
        assert packed(model) == [False] * 3 and model.base_model.model.training == training


def test_one_linear_leaves_with_its_pack() -> None:
    model = made()
    model.prepare_for_inference()
    gate, up, down = routed_layers(model)
    pack = gate.packed.pack  # pyright: ignore[reportOptionalMemberAccess]
    with torch.no_grad():
        gate(tokens(2))  # its outputs wait for up
        up.unpack()
        assert packed(model) == [False, False, True] and pack.waiting is None and not pack.weight.numel()
        for layer in (gate, up):
            weight = base_linear(layer).weight
            assert weight.untyped_storage().nbytes() == weight.nbytes
        torch.testing.assert_close(model(tokens(2)), mlp_by_hand(model, tokens(2)))
    assert model.prepare_for_inference().packed == 3 and down.packed is not None


def test_the_whole_tuner_is_in_evaluation_mode() -> None:
    model = made(dropout=0.5).train()
    model.prepare_for_inference()
    assert not any(module.training for module in model.base_model.modules())


def test_weights_of_a_packed_model_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """save_model refuses views, and torch.save would write the whole stack for each."""
    monkeypatch.setattr(choice, "_told", set())
    caplog.set_level(logging.INFO, "llava_teamlora.tuners")
    wanted = {name: value.clone() for name, value in made().state_dict().items()}
    sizes = {}
    for plain in (True, False):
        model = made()
        if not plain:
            model.prepare_for_inference()
        save_model(model, str(tmp_path / "all.safetensors"))
        saved = load_file(tmp_path / "all.safetensors")
        assert saved.keys() == wanted.keys() and all(torch.equal(saved[name], value) for name, value in wanted.items())
        if not plain:
            model.prepare_for_inference()
        save_file(dict(model.state_dict()), tmp_path / "state.safetensors")
        torch.save(model.state_dict(), tmp_path / "state.pt")
        sizes[plain] = [(tmp_path / name).stat().st_size for name in ("all.safetensors", "state.pt")]
        assert packed(model) == [False] * 3
    assert sizes[True] == sizes[False]
    assert [record.getMessage() for record in caplog.records if "unpacks it" in record.getMessage()] != []


def test_the_model_below_is_saved_as_it_would_be_without(tmp_path: Path) -> None:
    """transformers' own save_pretrained."""
    for prepared in (True, False):
        model: Any = random_adapter(routed_config("teamlora"))
        if prepared:
            model.prepare_for_inference()
        model.get_base_model().save_pretrained(tmp_path / str(prepared))
    one, other = (tmp_path / str(prepared) / "model.safetensors" for prepared in (True, False))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own first level
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("impl", ["auto", "linear"])
def test_forward_mode_has_the_references_tangents(impl: str, prepared: bool) -> None:
    model, reference = made(impl=impl), made(impl="reference")
    if prepared:
        model.prepare_for_inference()
    found = []
    for each in (model, reference):
        with torch.no_grad() if prepared else torch.enable_grad(), forward_ad.dual_level():
            y = each(forward_ad.make_dual(tokens(2), tokens(2).flip(0)))
            found.append(forward_ad.unpack_dual(y))
    torch.testing.assert_close(found[0].primal, found[1].primal)
    torch.testing.assert_close(found[0].tangent, found[1].tangent)
    assert packed(model) == [prepared] * 3
