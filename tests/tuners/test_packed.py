"""Packed linears: equal to a loop written from the equations, used only where that holds, undone by any change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapters import FFN, ROUTED, routed_config
from peft import get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from llava_teamlora.tuners.routed.auxiliary import record_routing
from llava_teamlora.tuners.routed.layer import RoutedLinear, routed_layers, set_impl
from llava_teamlora.tuners.routed.packed import MOST_TOKENS, Pack, base_linear

D_IN, D_OUT, K, R = 12, 20, 3, 2


class Mlp(nn.Module):
    """A gated MLP; gate has a bias and up has none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(D_IN, D_OUT)
        self.up_proj = nn.Linear(D_IN, D_OUT, bias=False)
        self.down_proj = nn.Linear(D_OUT, D_IN)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Around(nn.Module):
    """What holds an MLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


def made(name: str = "teamlora", dtype: torch.dtype = torch.float64, **fields: Any) -> Any:
    """An MLP with a random adapter, the ranks and scales of its linears alike."""
    torch.manual_seed(0)
    config = routed_config(name, target_modules=FFN, init_weights=False, **fields)
    return get_peft_model(Mlp().to(dtype), config, autocast_adapter_dtype=False).eval()


def by_hand(layer: RoutedLinear, x: Tensor) -> Tensor:
    """Base, plus one expert after the other, for one token after the other, in float64."""
    base, name = base_linear(layer), layer.active_adapters[0]
    weights = {w: layer.linear(w, name).weight.double() for w in layer.weight_names if layer.weight_module(w, name)}
    outputs = []
    for token in x.double().reshape(-1, x.shape[-1]):
        y = base.weight.double() @ token + (0 if base.bias is None else base.bias.double())
        phi = torch.softmax(weights["router"] @ token, -1)
        omega = weights["interaction"] @ phi if "interaction" in weights else phi
        for i in range(K):
            own = slice(i * R, (i + 1) * R)
            a = weights["A"] if layer.shared_down_projection else weights["A"][own]
            y = y + layer.scaling[name] * omega[i] * (weights["B"][:, own] @ (a @ token))
        outputs.append(y)
    return torch.stack(outputs).view(*x.shape[:-1], -1)


def mlp_by_hand(model: Any, x: Tensor) -> Tensor:
    mlp = model.base_model.model
    return by_hand(mlp.down_proj, F.silu(by_hand(mlp.gate_proj, x)) * by_hand(mlp.up_proj, x))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many linears each pack that ran computed at once."""
    seen: list[int] = []
    run = Pack.__call__

    def watched(self: Pack, x: Tensor) -> Tensor:
        seen.append(self.weight.shape[0])
        return run(self, x)

    monkeypatch.setattr(Pack, "__call__", watched)
    return seen


def tokens(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_equals_the_loop(name: str, dtype: torch.dtype, error: float, calls: list[int]) -> None:
    model = made(name, dtype, num_experts=K)
    assert model.prepare_for_inference() == (3, {})
    for x in (tokens(1, 1, dtype=dtype), tokens(2, 3, dtype=dtype), tokens(5, dtype=dtype)):
        expected = mlp_by_hand(model, x)
        with torch.no_grad():
            y = model(x)
        assert y.dtype == dtype and y.shape == x.shape
        assert (y - expected).norm() / expected.norm() < error
    assert calls == [2, 1] * 3  # gate and up together, down alone


def test_base_weights_are_views_and_get_their_own_storage_back() -> None:
    model = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.prepare_for_inference()
    layers = routed_layers(model)
    for layer in layers:
        assert layer.packed is not None
        assert base_linear(layer).weight.data_ptr() == layer.packed.pack.weight[layer.packed.index].data_ptr()
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    model.restore_after_inference()
    for layer in layers:
        weight = base_linear(layer).weight
        assert layer.packed is None and weight.untyped_storage().nbytes() == weight.nbytes


Change = Callable[[Any], Any]
CHANGES: dict[str, Change] = {
    "train": lambda model: model.train(),
    "cast": lambda model: model.float(),
    "load": lambda model: model.load_state_dict(model.state_dict()),
    "scale": lambda model: [layer.set_scale("default", 3.0) for layer in routed_layers(model)],
    "scale layer": lambda model: [layer.scale_layer(3.0) for layer in routed_layers(model)],
    "unscale layer": lambda model: [layer.unscale_layer() for layer in routed_layers(model)],
    "gradients": lambda model: model(tokens(1)),
    "another form": lambda model: set_impl(model, "reference"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_undoes_it(change: str) -> None:
    model, plain = made(), made()
    model.prepare_for_inference()
    for each in (model, plain):
        CHANGES[change](each)
        each.eval()
    assert all(layer.packed is None for layer in routed_layers(model))
    x = tokens(2).to(next(model.parameters()).dtype)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("form", ["auto", "linear"])
def test_an_mlp_of_a_known_class_trains_after_it(form: str) -> None:
    """Computed as one, it never asks its linears' places; it must leave them all the same."""
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=D_IN, intermediate_size=D_OUT, num_attention_heads=2)
    adapter = routed_config("teamlora", target_modules=FFN, init_weights=False, impl=form)
    model: Any = get_peft_model(Around(LlamaMLP(config).double()), adapter, autocast_adapter_dtype=False).eval()
    model.prepare_for_inference()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tokens(2)).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        y = model(tokens(2))
        model.restore_after_inference()
        assert torch.equal(model(tokens(2)), y)


def test_weights_written_by_hand_are_seen() -> None:
    """As a moving average of weights does, without gradients."""
    model = made()
    model.prepare_for_inference()
    with torch.no_grad():
        before = model(tokens(2))
        for layer in routed_layers(model):
            layer.linear("B", "default").weight.mul_(3)
        y = model(tokens(2))
        torch.testing.assert_close(y, mlp_by_hand(model, tokens(2)))
        assert (y - before).abs().max() > 1e-3


def test_training_after_it_is_training(calls: list[int]) -> None:
    """Weights move by a step in evaluation mode, with gradients; the next pass without must see them."""
    model = made()
    model.prepare_for_inference()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tokens(2)).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        y = model(tokens(2))
    torch.testing.assert_close(y, mlp_by_hand(model, tokens(2)))
    assert calls == []


def test_the_ordinary_way_where_a_pack_would_be_wrong(calls: list[int]) -> None:
    model = made()
    model.requires_grad_(False)
    x, many = tokens(2), tokens(MOST_TOKENS + 1)
    with torch.no_grad():
        wanted, wanted_many, wanted_base = model(x), model(many), mlp_base(model, x)
    model.prepare_for_inference()
    assert torch.equal(model(x), wanted)  # gradients are on: nothing trains, the packs stay
    with torch.no_grad():
        assert torch.equal(model(many), wanted_many)
        with model.disable_adapter():
            assert torch.equal(model(x), wanted_base)
        with record_routing(model) as records:
            assert torch.equal(model(x), wanted)
        assert len(records) == 3
        assert calls == []
        model(x)
    assert calls == [2, 1]


def test_autocast_goes_the_ordinary_way(calls: list[int]) -> None:
    model, plain = made(dtype=torch.float32), made(dtype=torch.float32)
    model.prepare_for_inference()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(tokens(2, dtype=torch.float32)), plain(tokens(2, dtype=torch.float32)))
    assert calls == []


def mlp_base(model: Any, x: Tensor) -> Tensor:
    gate, up, down = (getattr(model.base_model.model, name).get_base_layer() for name in FFN)
    return down(F.silu(gate(x)) * up(x))


def test_up_called_without_gate_or_with_another_input() -> None:
    model = made()
    model.prepare_for_inference()
    mlp, x, other = model.base_model.model, tokens(2), tokens(3)
    with torch.no_grad():
        torch.testing.assert_close(mlp.up_proj(other), by_hand(mlp.up_proj, other))
        mlp.gate_proj(x)
        torch.testing.assert_close(mlp.up_proj(other), by_hand(mlp.up_proj, other))
        torch.testing.assert_close(mlp.up_proj(x), by_hand(mlp.up_proj, x))
        assert mlp.up_proj.packed.pack.waiting is None


def test_linears_of_unequal_ranks_stand_alone(calls: list[int]) -> None:
    model = made(rank_pattern={"up_proj": 1})
    assert model.prepare_for_inference().packed == 3
    with torch.no_grad():
        y = model(tokens(2))
    model.restore_after_inference()
    with torch.no_grad():
        torch.testing.assert_close(y, model(tokens(2)))
    assert calls == [1, 1, 1]


def left_alone(model: Any) -> dict[str, int]:
    packed, left = model.prepare_for_inference()
    assert packed == 3 - sum(left.values())
    return left


def test_what_cannot_be_packed_is_left_and_said() -> None:
    assert list(left_alone(made(router_hidden=4)).values()) == [3]
    assert list(left_alone(made(impl="reference")).values()) == [3]
    hooked = made()
    hooked.base_model.model.up_proj.base_layer.register_forward_hook(lambda *_: None)
    assert left_alone(hooked) == {"the base layer has hooks": 1}
    wider = made(dtype=torch.bfloat16)
    wider.base_model.model.up_proj.float()
    wider.base_model.model.up_proj.base_layer.bfloat16()
    assert list(wider.prepare_for_inference(exact=True).left.values()) == [1]
    assert left_alone(wider) == {}
    tied = made()
    tied.base_model.model.other = nn.Linear(D_IN, D_OUT)
    tied.base_model.model.other.weight = tied.base_model.model.up_proj.base_layer.weight
    assert left_alone(tied) == {"the base weight is shared with another module": 1}
    with torch.no_grad():
        torch.testing.assert_close(tied(tokens(2)), mlp_by_hand(tied, tokens(2)))


def test_compiles_without_a_break() -> None:
    model = made()
    model.prepare_for_inference()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens(1, 1)), model(tokens(1, 1)))
    assert all(layer.packed is not None for layer in routed_layers(model))
