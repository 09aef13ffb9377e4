"""Experts weighted by hand: equal to a loop in which each participation is multiplied, and gone when taken away."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapters import FFN, ROUTED, lora_config, routed_config
from peft import get_peft_model
from test_packed import Around, Mlp, made, tokens
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from llava_teamlora.tuners.routed import record_routing, routed_layers, steer_experts
from llava_teamlora.tuners.routed.layer import RoutedLinear
from llava_teamlora.tuners.routed.packed import base_linear

K, R = 3, 2
GAINS = (0.0, 1.0, 1.75)


def by_hand(layer: RoutedLinear, x: Tensor, gains: tuple[float, ...]) -> Tensor:
    """Base, plus g_i omega_i times expert i's update, one after the other, for one token after the other."""
    base, name = base_linear(layer), layer.active_adapters[0]
    weights = {w: layer.linear(w, name).weight for w in layer.weight_names if layer.weight_module(w, name)}
    outputs = []
    for token in x.reshape(-1, x.shape[-1]):
        y = base.weight @ token + (0 if base.bias is None else base.bias)
        phi = torch.softmax(weights["router"] @ token, -1)
        omega = weights["interaction"] @ phi if "interaction" in weights else phi
        for i in range(K):
            own = slice(i * R, (i + 1) * R)
            a = weights["A"] if layer.shared_down_projection else weights["A"][own]
            y = y + layer.scaling[name] * gains[i] * omega[i] * (weights["B"][:, own] @ (a @ token))
        outputs.append(y)
    return torch.stack(outputs).view(*x.shape[:-1], -1)


def mlp_by_hand(model: Any, x: Tensor, gains: tuple[float, ...]) -> Tensor:
    mlp = model.base_model.model
    return by_hand(mlp.down_proj, F.silu(by_hand(mlp.gate_proj, x, gains)) * by_hand(mlp.up_proj, x, gains), gains)


def known_mlp(form: str = "auto") -> Any:
    """An MLP of a class that is computed as one where it can be."""
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=12, intermediate_size=20, num_attention_heads=2)
    adapter = routed_config("teamlora", target_modules=FFN, init_weights=False, impl=form)
    return get_peft_model(Around(LlamaMLP(config).double()), adapter, autocast_adapter_dtype=False)


def gradients(model: Any) -> list[Tensor]:
    model.zero_grad()
    model(tokens(4)).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ROUTED)
@torch.no_grad()
def test_equals_the_loop(name: str, packed: bool) -> None:
    model = made(name)
    if packed:
        assert model.prepare_for_inference() == (3, {})
    for x in (tokens(1, 1), tokens(2, 3)):
        steer_experts(model, None)
        before = model(x)
        steer_experts(model, GAINS)
        steered = model(x)
        torch.testing.assert_close(steered, mlp_by_hand(model, x, GAINS), rtol=0, atol=1e-14)
        assert (steered - before).abs().max() > 1e-3  # the gains do something
        steer_experts(model, None)
        assert torch.equal(model(x), before)
    assert all((layer.packed is not None) is packed for layer in routed_layers(model))


@pytest.mark.parametrize("form", ["auto", "linear", "reference"])
@torch.no_grad()
def test_every_form_obeys(form: str) -> None:
    model, plain = known_mlp(form).eval(), known_mlp("reference").eval()
    for each in (model, plain):
        steer_experts(each, GAINS)
    torch.testing.assert_close(model(tokens(5)), plain(tokens(5)), rtol=0, atol=1e-14)
    steer_experts(model, (1, 1, 1))
    steer_experts(plain, None)
    torch.testing.assert_close(model(tokens(5)), plain(tokens(5)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ROUTED)
@torch.no_grad()
def test_an_expert_off_is_one_whose_b_is_zero(name: str) -> None:
    model, without = made(name), made(name)
    steer_experts(model, (1, 0, 1))
    for layer in routed_layers(without):
        layer.linear("B", "default").weight[:, R : 2 * R] = 0
    torch.testing.assert_close(model(tokens(4)), without(tokens(4)), rtol=0, atol=1e-14)
    steer_experts(model, (0, 0, 0))
    with without.disable_adapter():
        torch.testing.assert_close(model(tokens(4)), without(tokens(4)), rtol=0, atol=1e-14)


@torch.no_grad()
def test_listeners_hear_what_was_used() -> None:
    model = made()
    with record_routing(model) as plain:
        model(tokens(2))
    steer_experts(model, (1, 0, 0.5))
    with record_routing(model) as steered:
        model(tokens(2))
    torch.testing.assert_close(steered[0].participation, plain[0].participation * torch.tensor([1, 0, 0.5]).double())
    torch.testing.assert_close(steered[0].logits, plain[0].logits)  # the router is not told


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((1.0, 1.0), "2 gains for a model whose layers have 3 experts"),
        ((), "0 gains"),
        ((1.0, float("nan"), 1.0), "finite and 0 or above"),
        ((1.0, float("inf"), 1.0), "finite and 0 or above"),
        ((1.0, -0.5, 1.0), "finite and 0 or above"),
    ],
)
def test_refuses(gains: tuple[float, ...], said: str) -> None:
    model = made()
    steer_experts(model, GAINS)
    with pytest.raises(ValueError, match=said):
        steer_experts(model, gains)
    assert {layer.expert_gains for layer in routed_layers(model)} == {GAINS}  # those before stay


def test_refuses_a_model_without_experts() -> None:
    model = get_peft_model(Mlp(), lora_config())
    with pytest.raises(ValueError, match="layers have no experts"):
        steer_experts(model, GAINS)
    steer_experts(model, None)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_compiles_without_breaks(packed: bool) -> None:
    torch._dynamo.reset()
    model = made()
    if packed:
        model.prepare_for_inference()
    compiled = torch.compile(model.base_model.model, fullgraph=True, backend="aot_eager")
    for gains in (None, GAINS, None):
        steer_experts(model, gains)
        expected = mlp_by_hand(model, tokens(2), gains or (1.0, 1.0, 1.0))
        torch.testing.assert_close(compiled(tokens(2)), expected, rtol=0, atol=1e-14)


def test_nothing_of_it_is_trained_saved_or_left() -> None:
    model, untouched = known_mlp(), known_mlp()
    names = list(model.state_dict())
    steer_experts(model, GAINS)
    assert list(model.state_dict()) == names
    # Where its only expert's gain is 0 a weight learns nothing; the experts at work do.
    mlp = model.base_model.model.mlp
    gradients(model)
    gradient = mlp.down_proj.linear("B", "default").weight.grad
    assert gradient[:, :R].abs().max() == 0 and gradient[:, R:].abs().max() > 0
    steer_experts(model, None)
    for mine, theirs in zip(gradients(model), gradients(untouched), strict=True):
        assert torch.equal(mine, theirs)


@torch.no_grad()
def test_a_copy_is_steered_by_itself() -> None:
    model = made()
    before, other = model(tokens(2)), copy.deepcopy(model)
    steer_experts(other, GAINS)
    assert torch.equal(model(tokens(2)), before)
    torch.testing.assert_close(other(tokens(2)), mlp_by_hand(model, tokens(2), GAINS), rtol=0, atol=1e-14)
