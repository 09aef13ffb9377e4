"""Experts dropped, cloned and frozen: what stays equal does so to rounding, what does not by the factor stated."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from adapters import ROUTED, put, random_adapter, routed_config
from peft import PeftModel
from torch import Tensor, nn

from llava_teamlora.tuners.routed import RoutedLinear, record_routing, routed_layers
from llava_teamlora.tuners.routed.adapter import adapter_of
from llava_teamlora.tuners.routed.freezing import freeze_experts
from llava_teamlora.tuners.routed.surgery import clone_all_experts, clone_expert, drop_experts, expert_slice

Made = dict[str, Any]


def first_layer(model: PeftModel) -> RoutedLinear:
    return routed_layers(model)[0]


def parts(layer: RoutedLinear, x: Tensor) -> Made:
    """phi, omega and what each expert adds, ``[N, k, D_out]``, a token and an expert at a time."""
    with record_routing(layer) as records:
        layer(x)
    phi, omega = records[0].logits.softmax(-1), records[0].participation
    a, b = layer.linear("A", "default").weight, layer.linear("B", "default").weight
    r, k = layer.adapter_configs["default"].r, omega.shape[-1]
    added = []
    for i in range(k):
        rows = slice(0, r) if layer.shared_down_projection else expert_slice(i, r)
        added.append(omega[:, i, None] * (x @ a[rows].T @ b[:, expert_slice(i, r)].T) * layer.scaling["default"])
    return {"phi": phi, "omega": omega, "added": torch.stack(added, dim=1)}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ROUTED)
def test_a_dropped_expert_leaves_the_others_as_they_were(name: str, x: Tensor) -> None:
    model = random_adapter(routed_config(name))
    before = parts(first_layer(model), x)
    layer = first_layer(put(drop_experts(adapter_of(model), [1])))
    base = layer.base_layer(x)
    torch.testing.assert_close(layer(x) - base, before["added"][:, [0, 2]].sum(dim=1))
    assert parts(layer, x)["added"][:, 1].abs().max() == 0
    assert layer.adapter_configs["default"].num_experts == 3


@pytest.mark.parametrize("name", ["teamlora", "moelora"])
def test_a_dropped_expert_never_comes_back(name: str, ids: Tensor) -> None:
    model = put(drop_experts(adapter_of(random_adapter(routed_config(name))), [1]))
    train(model, ids, adamw(model))
    for layer in routed_layers(model):
        assert not layer.linear("A", "default").weight[expert_slice(1, 2)].any()
        assert not layer.linear("B", "default").weight[:, expert_slice(1, 2)].any()
        assert layer.linear("B", "default").weight[:, expert_slice(2, 2)].any()


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 4}, {"rank_pattern": {"gate_proj": 3}}], ids=str)
@pytest.mark.parametrize("name", ROUTED)
def test_renormalised_shares(name: str, fields: dict, x: Tensor) -> None:
    model = random_adapter(routed_config(name, num_experts=4, **fields))
    before = parts(first_layer(model), x)
    left = [0, 3]
    layer = first_layer(put(drop_experts(adapter_of(model), [2, 1], renormalise=True)))
    after = parts(layer, x)
    phi = before["phi"][:, left] / (1 - before["phi"][:, [1, 2]].sum(dim=1, keepdim=True))
    torch.testing.assert_close(after["phi"], phi)
    old = first_layer(model).weight_module("interaction", "default")
    omega = phi if old is None else phi @ old.weight[left][:, left].T  # type: ignore[union-attr]
    torch.testing.assert_close(after["omega"], omega)
    added = before["added"][:, left] * (omega / before["omega"][:, left]).unsqueeze(-1)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), added.sum(dim=1))
    assert layer.adapter_configs["default"].num_experts == 2


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 4}, {"rank_pattern": {"gate_proj": 3}}], ids=str)
@pytest.mark.parametrize("name", ROUTED)
def test_a_clone_changes_the_length_of_the_update_as_stated(name: str, fields: dict, x: Tensor) -> None:
    model = random_adapter(routed_config(name, **fields))
    before = parts(first_layer(model), x)
    update = before["added"].sum(dim=1)
    layer = first_layer(put(clone_expert(adapter_of(model), 1, spread=0.3)))
    after = parts(layer, x)
    factor = (1 + 1 / 3) / (1 + before["phi"][:, [1]])
    assert (factor - 1).abs().max() > 0.05  # not equal, and the docstring says by how much
    torch.testing.assert_close(layer(x) - layer.base_layer(x), factor * update)
    torch.testing.assert_close(after["omega"][:, 1], after["omega"][:, 3])
    assert not torch.allclose(after["added"][:, 1], after["added"][:, 3])  # set apart


def test_a_clone_is_exact_where_the_router_is_still_at_zero(ids: Tensor) -> None:
    model = random_adapter(routed_config("teamlora"))
    with torch.no_grad():
        for layer in routed_layers(model):
            layer.linear("router", "default").weight.zero_()
    torch.testing.assert_close(put(clone_expert(adapter_of(model), 2))(ids).logits, model(ids).logits)


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 4}, {"rank_pattern": {"gate_proj": 3}}], ids=str)
@pytest.mark.parametrize("name", ROUTED)
def test_cloning_every_expert_is_exact(name: str, fields: dict, ids: Tensor) -> None:
    model = random_adapter(routed_config(name, **fields))
    twice = put(clone_all_experts(adapter_of(model), spread=0.3))
    assert first_layer(twice).adapter_configs["default"].num_experts == 6
    torch.testing.assert_close(twice(ids).logits, model(ids).logits, rtol=1e-11, atol=1e-11)
    b = first_layer(twice).linear("B", "default").weight
    assert not torch.allclose(b[:, : b.shape[1] // 2], b[:, b.shape[1] // 2 :])


@pytest.mark.parametrize("name", ["teamlora", "moelora"])
def test_copies_get_gradients_of_their_own_only_if_set_apart(name: str, ids: Tensor) -> None:
    for spread, parted in ((0.0, False), (0.1, True)):
        model = put(clone_expert(adapter_of(random_adapter(routed_config(name))), 0, spread=spread))
        model(input_ids=ids, labels=ids).loss.backward()
        for weight, first, second in (("router", 0, 3), ("A", slice(0, 2), slice(6, 8))):
            gradient = first_layer(model).linear(weight, "default").weight.grad
            assert gradient is not None
            apart = (gradient[first] - gradient[second]).norm() / gradient[first].norm()
            assert apart > 1e-2 if parted else apart < 1e-9


def test_impossible_surgery_is_refused() -> None:
    adapter = adapter_of(random_adapter(routed_config("teamlora")))
    with pytest.raises(ValueError, match="there is no expert 3: this adapter has experts 0 to 2"):
        drop_experts(adapter, [3])
    with pytest.raises(ValueError, match="there is no expert -1"):
        clone_expert(adapter, -1)
    with pytest.raises(ValueError, match="would leave none of 3"):
        drop_experts(adapter, [0, 1, 2], renormalise=True)
    with pytest.raises(ValueError, match="each expert once"):
        drop_experts(adapter, [1, 1])


def train(model: nn.Module, ids: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "sgd, momentum": lambda m: torch.optim.SGD(
        [p for p in m.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=0.1
    ),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("name", ROUTED)
def test_a_frozen_expert_keeps_every_bit(name: str, make: Callable, ids: Tensor) -> None:
    model = random_adapter(routed_config(name))
    optimizer = make(model)
    train(model, ids, optimizer, steps=1)  # moments are there already when it is frozen
    before = adapter_of(model).layers()
    frozen = freeze_experts(model, [1], optimizer)
    model(input_ids=ids, labels=ids).loss.backward()
    gradient = first_layer(model).linear("B", "default").weight.grad
    assert gradient is not None and not gradient[:, 2:4].any() and gradient[:, :2].any()
    train(model, ids, optimizer)
    after = adapter_of(model).layers()
    shared = first_layer(model).shared_down_projection
    for path, layer in after.items():
        assert torch.equal(layer["B"][:, 2:4], before[path]["B"][:, 2:4])
        assert (layer["B"] != before[path]["B"]).sum() == layer["B"][:, :4].numel()  # the other two experts, all of it
        assert shared or torch.equal(layer["A"][2:4], before[path]["A"][2:4])
        assert (layer["A"][:2] != before[path]["A"][:2]).all()
        assert (layer["router"] != before[path]["router"]).any(dim=1).all()
    frozen.remove()
    train(model, ids, optimizer, steps=1)
    for path, layer in adapter_of(model).layers().items():
        assert (layer["B"][:, 2:4] != before[path]["B"][:, 2:4]).any()


def test_freezing_through_accelerates_wrapper(ids: Tensor) -> None:
    from accelerate import Accelerator

    model = random_adapter(routed_config("teamlora"))
    wrapped = Accelerator(cpu=True).prepare(adamw(model))
    before = adapter_of(model).layers()
    freeze_experts(model, [0, 2], wrapped)
    train(model, ids, wrapped)
    for path, layer in adapter_of(model).layers().items():
        assert torch.equal(layer["A"][[0, 1, 4, 5]], before[path]["A"][[0, 1, 4, 5]])
        assert (layer["A"][2:4] != before[path]["A"][2:4]).all()


def test_freezing_what_the_optimizer_does_not_hold_is_refused() -> None:
    model = random_adapter(routed_config("teamlora"))
    with pytest.raises(ValueError, match="does not hold the experts' weights themselves.*ZeRO"):
        freeze_experts(model, [0], torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
    with pytest.raises(ValueError, match="experts 0 to 2"):
        freeze_experts(model, [3], adamw(model))
    with pytest.raises(ValueError, match="no routed adapter called 'other'"):
        freeze_experts(model, [0], adamw(model), adapter="other")
