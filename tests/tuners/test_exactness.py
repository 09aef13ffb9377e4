"""Methods against each other and against their equations, in float64: the output and the gradient of every weight.

TeamLoRA's own equations are in test_equations.py.
"""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from llava_teamlora import HydraLoraConfig, MoeLoraConfig, MosLoraConfig, TeamLoraConfig
from llava_teamlora.tuners.low_rank import LowRankLinear

D_IN, D_OUT, K, R, ALPHA = 6, 5, 3, 2, 7
SCALE = ALPHA / R
FIELDS = {"r": R, "alpha": ALPHA, "target_modules": ["lin"], "init_weights": False}
FIXED = {"interaction_init": "identity", "train_interaction": False}
Weights = dict[str, Tensor]

_GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(4, 3, D_IN, dtype=torch.float64, generator=_GENERATOR)
G = torch.randn(4, 3, D_OUT, dtype=torch.float64, generator=_GENERATOR)


class OneLinear(nn.Module):
    """The same linear each time, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(D_IN, D_OUT).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


def layer_of(config: PeftConfig) -> LowRankLinear:
    return get_peft_model(OneLinear(), config).base_model.model.lin


def leaves(layer: LowRankLinear) -> Weights:
    """Copies of an adapter's weights, to differentiate by."""
    modules = {name: layer.weight_module(name, "default") for name in layer.weight_names}
    return {n: m.weight.detach().clone().requires_grad_() for n, m in modules.items() if m is not None}


def put(layer: LowRankLinear, weights: Weights) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            layer.linear(name, "default").weight.copy_(weight)


def differentiate(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Run a function on X, backwards too: its output and the gradient of X."""
    x = X.clone().requires_grad_()
    y = function(x)
    y.backward(G)
    assert x.grad is not None
    return y.detach(), x.grad


def grads(layer: LowRankLinear, names: Weights) -> list[Tensor | None]:
    return [layer.linear(name, "default").weight.grad for name in names]


def assert_equals(layer: LowRankLinear, formula: Callable[[Tensor, Weights], Tensor]) -> None:
    weights = leaves(layer)
    base = layer.get_base_layer()
    ours = differentiate(layer)
    theirs = differentiate(lambda x: base(x) + formula(x, weights))
    expected = [*theirs, *(weight.grad for weight in weights.values())]
    for found, value in zip([*ours, *grads(layer, weights)], expected, strict=True):
        assert value is not None and value.abs().max() > 0
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


def expert(weight: Tensor, i: int, dim: int) -> Tensor:
    return weight.narrow(dim, i * R, R)


def moelora(x: Tensor, w: Weights) -> Tensor:
    """sum_i phi_i x A_i B_i: k LoRAs, each whole."""
    phi = torch.softmax(x @ w["router"].T, dim=-1)
    k = w["router"].shape[0]
    return SCALE * sum(phi[..., i, None] * (x @ expert(w["A"], i, 0).T @ expert(w["B"], i, 1).T) for i in range(k))


def hydralora(x: Tensor, w: Weights) -> Tensor:
    """sum_i phi_i (x A) B_i: one A."""
    phi = torch.softmax(x @ w["router"].T, dim=-1)
    return SCALE * sum(phi[..., i, None] * (x @ w["A"].T @ expert(w["B"], i, 1).T) for i in range(K))


def moslora(x: Tensor, w: Weights) -> Tensor:
    """x A W_AB B; torch's weights are the transposes."""
    return SCALE * (x @ w["A"].T @ w["mixer"].T @ w["B"].T)


@pytest.mark.parametrize(
    ("config", "formula"),
    [
        (MoeLoraConfig(num_experts=K, **FIELDS), moelora),
        (HydraLoraConfig(num_experts=K, **FIELDS), hydralora),
        (MosLoraConfig(**FIELDS), moslora),
        (TeamLoraConfig(num_experts=K, **FIELDS, **FIXED), moelora),
    ],
    ids=["moelora", "hydralora", "moslora", "teamlora without competition"],
)
def test_equation(config: PeftConfig, formula: Callable[[Tensor, Weights], Tensor]) -> None:
    assert_equals(layer_of(config), formula)


def test_moelora_is_k_loras_of_peft() -> None:
    """Each expert as an adapter of peft's own LoRA, weighted by hand."""
    layer = layer_of(MoeLoraConfig(num_experts=K, **FIELDS))
    w = leaves(layer)
    config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["lin"])
    loras = [get_peft_model(OneLinear(), config).base_model.model.lin for _ in range(K)]
    for i, lora in enumerate(loras):
        with torch.no_grad():
            lora.lora_A["default"].weight.copy_(expert(w["A"], i, 0))
            lora.lora_B["default"].weight.copy_(expert(w["B"], i, 1))
    base = layer.get_base_layer()

    def mixture(x: Tensor) -> Tensor:
        phi = torch.softmax(x @ w["router"].T, dim=-1)
        return base(x) + sum(phi[..., i, None] * (lora(x) - base(x)) for i, lora in enumerate(loras))

    ours, theirs = differentiate(layer), differentiate(mixture)
    a, b, router = grads(layer, {name: w[name] for name in ("A", "B", "router")})
    stacked_a = torch.cat([lora.lora_A["default"].weight.grad for lora in loras], dim=0)
    stacked_b = torch.cat([lora.lora_B["default"].weight.grad for lora in loras], dim=1)
    expected = [*theirs, stacked_a, stacked_b, w["router"].grad]
    for found, value in zip([*ours, a, b, router], expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fixed", [True, False])
def test_teamlora_with_the_identity_is_moelora_bit_for_bit(fixed: bool) -> None:
    """Without M, and with a learned M that is the identity at the moment."""
    moe = layer_of(MoeLoraConfig(num_experts=K, **FIELDS))
    team = layer_of(TeamLoraConfig(num_experts=K, **FIELDS, **(FIXED if fixed else {})))
    shared = leaves(moe)
    put(team, shared)
    if not fixed:
        put(team, {"interaction": torch.eye(K)})
    ours, theirs = differentiate(team), differentiate(moe)
    for found, value in zip([*ours, *grads(team, shared)], [*theirs, *grads(moe, shared)], strict=True):
        assert found is not None and value is not None and torch.equal(found, value)


def test_moelora_with_an_interaction_matrix_is_teamlora() -> None:
    """The ablation "competition only": the same function, for A = [A_1 ... A_k]."""
    learned = {"interaction_init": "uniform", "train_interaction": True}
    moe = layer_of(MoeLoraConfig(num_experts=K, **FIELDS, **learned))
    team = layer_of(TeamLoraConfig(num_experts=K, **FIELDS))
    shared = leaves(team)
    assert "interaction" in shared
    put(moe, shared)
    ours, theirs = differentiate(moe), differentiate(team)
    for found, value in zip([*ours, *grads(moe, shared)], [*theirs, *grads(team, shared)], strict=True):
        assert found is not None and value is not None and torch.equal(found, value)


@pytest.mark.parametrize(
    "config",
    [
        TeamLoraConfig(num_experts=1, **FIELDS, **FIXED),
        MoeLoraConfig(num_experts=1, **FIELDS),
        HydraLoraConfig(num_experts=1, **FIELDS),
        MosLoraConfig(**FIELDS),
    ],
    ids=lambda config: config.peft_type.value.lower(),
)
def test_one_expert_or_an_identity_mixer_is_pefts_lora(config: PeftConfig) -> None:
    layer = layer_of(config)
    if "mixer" in layer.weight_names:
        put(layer, {"mixer": torch.eye(R)})
    lora = get_peft_model(OneLinear(), LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["lin"])).base_model.model.lin
    shared = {name: weight for name, weight in leaves(layer).items() if name in ("A", "B")}
    with torch.no_grad():
        lora.lora_A["default"].weight.copy_(shared["A"])
        lora.lora_B["default"].weight.copy_(shared["B"])
    theirs = (*differentiate(lora), lora.lora_A["default"].weight.grad, lora.lora_B["default"].weight.grad)
    for found, value in zip([*differentiate(layer), *grads(layer, shared)], theirs, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


def test_moslora_merges_into_the_weight() -> None:
    layer = layer_of(MosLoraConfig(**FIELDS))
    w = leaves(layer)
    base = layer.get_base_layer()
    before = base.weight.detach().clone()
    expected, _ = differentiate(layer)
    layer.merge(safe_merge=True)
    torch.testing.assert_close(base.weight, before + SCALE * w["B"] @ w["mixer"] @ w["A"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(X), expected, rtol=1e-12, atol=1e-12)
    layer.unmerge()
    torch.testing.assert_close(base.weight, before, rtol=1e-12, atol=1e-12)
