"""Which form computes a routed linear: each condition that sends it back, what runs then, and that it is told once."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import choice
from llava_teamlora.tuners.routed import layer as layer_module
from llava_teamlora.tuners.routed.layer import RoutedLinear, set_impl


class Holder(nn.Module):
    """A model of one linear."""

    def __init__(self, lin: nn.Module) -> None:
        super().__init__()
        self.lin = lin

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


def make(lin: nn.Module | None = None, **fields: Any) -> Any:
    torch.manual_seed(0)
    given = {"r": 2, "num_experts": 3, "target_modules": ["lin"], "init_weights": False}
    return get_peft_model(Holder(nn.Linear(6, 5) if lin is None else lin), TeamLoraConfig(**given | fields))


def layer_of(model: Any) -> RoutedLinear:
    return model.base_model.model.lin


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by "whole" or "update" with each call of a fused form."""
    found: list[str] = []
    plain = layer_module.fused_linear

    def watched(x: Tensor, weight: Tensor | None, *rest: Any) -> Any:
        found.append("update" if weight is None else "whole")
        return plain(x, weight, *rest)

    monkeypatch.setattr(layer_module, "fused_linear", watched)
    return found


def hook(name: str) -> Callable[[Any], None]:
    def register(model: Any) -> None:
        layer = layer_of(model)
        module = layer.base_layer if name == "base" else layer.weight_module(name, "default")
        assert isinstance(module, nn.Module)
        module.register_forward_hook(lambda *_: None)

    return register


def offload(model: Any) -> None:
    """Put another forward on the base, as accelerate does."""
    base = layer_of(model).base_layer
    base.forward = base.forward


def split(name: str) -> Callable[[Any], None]:
    """Mark a weight as ZeRO-3 does."""

    def mark(model: Any) -> None:
        layer = layer_of(model)
        module: Any = layer.base_layer if name == "base" else layer.weight_module(name, "default")
        module.weight.ds_id = 1

    return mark


def second_adapter(model: Any) -> None:
    model.add_adapter("other", TeamLoraConfig(r=1, num_experts=2, target_modules=["lin"], init_weights=False))
    model.base_model.set_adapter(["default", "other"])


def train(name: str) -> Callable[[Any], None]:
    return lambda model: getattr(layer_of(model).base_layer, name).requires_grad_(True)


def foreign_dropout(model: Any) -> None:
    layer_of(model).adapter_dropout["default"] = nn.AlphaDropout(0.0)


CASES: dict[str, tuple[Callable[[Any], Any], list[str], str]] = {
    "nothing": (lambda model: None, ["whole"], ""),
    "hooked base": (hook("base"), ["update"], "the base layer has hooks"),
    "other forward": (offload, ["update"], "the base layer has hooks"),
    "trained base": (train("weight"), ["update"], "the base layer is trained"),
    "trained bias": (train("bias"), ["update"], "the base layer is trained"),
    "split base": (split("base"), ["update"], "the base weight is split"),
    "two adapters": (second_adapter, ["update", "update"], "several adapters are active"),
    "hooked A": (hook("A"), [], "a weight of the adapter is in a DownProjection, or has hooks"),
    "hooked M": (hook("interaction"), [], "a weight of the adapter is in a WideLinear, or has hooks"),
    "split B": (split("B"), [], "a weight of the adapter is split"),
    "foreign dropout": (foreign_dropout, [], "the adapter's dropout is a AlphaDropout"),
    "disabled": (lambda model: model.base_model.disable_adapter_layers(), [], ""),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_runs(
    case: tuple[Any, list[str], str], forms: list[str], caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form, the reason (once in two passes), the reference's output and gradients."""
    prepare, expected, reason = case
    monkeypatch.setattr(choice, "_told", set())
    caplog.set_level(logging.INFO, "llava_teamlora.tuners")
    model = make()
    prepare(model)
    x = torch.randn(4, 6)
    found = []
    for impl in ("auto", "auto", "reference"):
        set_impl(model, impl)
        model.zero_grad()
        given = x.clone().requires_grad_()
        y = model(given)
        y.square().sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"y": y.detach(), "x": given.grad, **grads})
    assert forms == expected * 2
    messages = [record.getMessage() for record in caplog.records]
    assert sum(reason in message for message in messages) == 1 if reason else messages == []
    assert found[0].keys() == found[2].keys()
    for name, value in found[2].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-4, atol=1e-5, msg=name)


OTHERS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "Conv1D": (lambda: make(Conv1D(5, 6)), ["update"]),
    "a subclass": (lambda: make(type("Mine", (nn.Linear,), {})(6, 5)), ["update"]),
    "no bias": (lambda: make(nn.Linear(6, 5, bias=False)), ["whole"]),
    "MLP router": (lambda: make(router_hidden=4), []),
    "asked for plain": (lambda: make(impl="reference"), []),
    "asked for linear": (lambda: make(impl="linear"), ["whole"]),
    "dropout": (lambda: make(dropout=0.2), ["whole"]),
}


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_bases_and_configurations(case: tuple[Callable[[], Any], list[str]], forms: list[str]) -> None:
    make_it, expected = case
    model = make_it()
    y = model(torch.randn(4, 6))
    assert forms == expected and y.shape == (4, 5)


def test_hooks_fire_and_see_what_they_saw(forms: list[str]) -> None:
    model = make()
    layer, seen = layer_of(model), []
    for module in (layer.base_layer, layer.linear("A", "default"), layer.linear("B", "default")):
        module.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    model(torch.randn(4, 6))
    assert forms == [] and seen == [(4, 5), (4, 6), (4, 5)]


def test_scale_and_switching_take_effect_at_once(forms: list[str]) -> None:
    model = make()
    layer, x = layer_of(model), torch.randn(4, 6)
    base = layer.base_layer(x)
    update = model(x) - base
    layer.scale_layer(3.0)
    torch.testing.assert_close(model(x) - base, 3 * update)
    layer.unscale_layer()
    with model.disable_adapter():
        assert torch.equal(model(x), base)
    torch.testing.assert_close(model(x) - base, update)
    assert forms == ["whole"] * 3


def test_dropout_follows_the_mode_of_training() -> None:
    model = make(dropout=0.5)
    x = torch.randn(4, 6)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_input_of_another_dtype_is_refused_as_by_the_base() -> None:
    model = make()
    with pytest.raises(RuntimeError, match="dtype"):
        model(torch.randn(4, 6).bfloat16())


def test_input_that_may_not_be_cast(forms: list[str]) -> None:
    model = make(nn.Linear(6, 5).bfloat16())
    x = torch.randn(4, 6).bfloat16()
    with disable_input_dtype_casting(model), pytest.raises(RuntimeError, match="dtype"):
        model(x)
    assert forms == []
    assert model(x).dtype == torch.bfloat16 and forms == ["whole"]


def test_float64_under_autocast_stays(forms: list[str]) -> None:
    model = make().double()
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.float64 and forms == []


def test_transforms_of_torch_func(forms: list[str]) -> None:
    model = make()
    x = torch.randn(4, 6)
    rows = torch.func.vmap(model)(x)
    assert forms == []
    torch.testing.assert_close(rows, model(x))


def test_exports() -> None:
    model = make().eval()
    x = torch.randn(4, 6)
    exported = torch.export.export(layer_of(model), (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_extra_arguments_reach_the_base() -> None:
    with pytest.raises(TypeError, match="unexpected"):
        layer_of(make())(torch.randn(4, 6), unexpected=1)


def test_impl_is_checked_and_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="impl must be one of auto, linear, reference, got 'fast'"):
        TeamLoraConfig(impl="fast")
    model = make(impl="reference")
    with pytest.raises(ValueError, match="impl must be one of"):
        set_impl(model, "fast")
    model.save_pretrained(tmp_path)
    assert "impl" not in json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert PeftConfig.from_pretrained(str(tmp_path)).impl == "auto"  # pyright: ignore[reportAttributeAccessIssue]
    assert layer_of(model).adapter_configs["default"].impl == "reference"
