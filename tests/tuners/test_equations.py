"""The layer against loops written from the paper's equations, in float64, values and every gradient."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import Tensor, nn

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.teamlora import TeamLoraLinear

D_IN, D_OUT, K, R = 6, 5, 3, 2


class OneLinear(nn.Module):
    """A model of one linear, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(D_IN, D_OUT).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


class FixedDropout(nn.Module):
    """Dropout with a mask that stays."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def make_layer(seed: int = 0, **fields: object) -> TeamLoraLinear:
    torch.manual_seed(seed)
    given = {"r": R, "num_experts": K, "alpha": 7, "target_modules": ["lin"], "init_weights": False}
    layer = get_peft_model(OneLinear(), TeamLoraConfig(**given | fields)).base_model.model.lin
    assert isinstance(layer, TeamLoraLinear)
    return layer


def weights(layer: TeamLoraLinear) -> dict[str, Tensor]:
    """Take copies of the layer's weights as leaves, B split into its experts."""
    leaves = {}
    for name in layer.weight_names:
        module = layer.weight_module(name, "default")
        if module is not None:
            leaves[name] = module.weight.detach().clone()
    for i in range(leaves["B"].shape[1] // R):
        leaves[f"B_{i}"] = leaves["B"][:, i * R : (i + 1) * R].clone()
    del leaves["B"]
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()}


def equations(x: Tensor, w: dict[str, Tensor], base: nn.Linear, scale: float, mask: Tensor | None = None) -> Tensor:
    """Equations 8 to 13, a token and an expert at a time. W in the paper is the transpose of torch's weight."""
    k = w["router"].shape[0]
    rows = []
    for n in range(x.shape[0]):
        token = x[n]
        hidden = F.gelu(token @ w["router_hidden"].T) if "router_hidden" in w else token
        score = torch.stack([hidden @ w["router"][i] for i in range(k)])
        phi = torch.exp(score) / torch.exp(score).sum()  # (11)
        omega = phi
        if "interaction" in w:
            omega = torch.stack([sum(w["interaction"][i, j] * phi[j] for j in range(k)) for i in range(k)])  # (12)
        z = (token if mask is None else token * mask[n]) @ w["A"].T
        h = token @ base.weight.T + base.bias
        for i in range(k):
            z_i = z[i * R : (i + 1) * R]  # (8)
            h_i = z_i @ w[f"B_{i}"].T  # (9)
            h = h + scale * omega[i] * h_i  # (13)
        rows.append(h)
    return torch.stack(rows)


CASES = {
    "default": {},
    "mlp router": {"router_hidden": 4},
    "literal": {"interaction_init": "literal"},
    "no interaction": {"interaction_init": "identity", "train_interaction": False},
    "one expert": {"num_experts": 1},
    "dropout": {"dropout": 0.5},
    "dropout, mlp router": {"dropout": 0.5, "router_hidden": 4},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_output_and_every_gradient(fields: dict[str, object]) -> None:
    layer = make_layer(**fields)
    leaves = weights(layer)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, D_IN, dtype=torch.float64, generator=generator)
    g = torch.randn(4, D_OUT, dtype=torch.float64, generator=generator)
    mask = None
    if "dropout" in fields:
        mask = 2.0 * (torch.rand(4, D_IN, generator=generator) > 0.5).double()
        layer.adapter_dropout["default"] = FixedDropout(mask)
    x_ours, x_loop = x.clone().requires_grad_(), x.clone().requires_grad_()

    ours = layer(x_ours)
    loop = equations(x_loop, leaves, layer.get_base_layer(), 7 / R, mask)
    (ours * g).sum().backward()
    (loop * g).sum().backward()

    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(ours, loop, **close)
    torch.testing.assert_close(x_ours.grad, x_loop.grad, **close)
    b_grad = layer.weight_module("B", "default").weight.grad
    for name, leaf in leaves.items():
        i = int(name[2:]) if name.startswith("B_") else None
        grad = layer.weight_module(name, "default").weight.grad if i is None else b_grad[:, i * R : (i + 1) * R]
        assert leaf.grad.abs().max() > 0 or K == 1 or fields.get("num_experts") == 1
        torch.testing.assert_close(grad, leaf.grad, **close)


def test_gradcheck() -> None:
    layer = make_layer(router_hidden=3)
    x = torch.randn(2, 3, D_IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_router_reads_its_input_without_dropout() -> None:
    layer = make_layer(dropout=0.9).train()
    sink: list = []
    layer.routing_sinks = (sink,)
    x = torch.randn(4, D_IN, dtype=torch.float64)
    layer(x)
    torch.testing.assert_close(sink[0].logits, x @ layer.weight_module("router", "default").weight.T)


@pytest.mark.parametrize(("init", "high"), [("uniform", 1 / K), ("literal", 1.0), ("identity", 0.0)])
def test_interaction_starts_with_a_unit_diagonal(init: str, high: float) -> None:
    m = make_layer(interaction_init=init, init_weights=True).weight_module("interaction", "default").weight
    rest = m[~torch.eye(K, dtype=torch.bool)]
    assert torch.equal(m.diagonal(), torch.ones(K, dtype=m.dtype))
    assert (rest >= 0).all() and (rest <= high).all()
    assert high == 0.0 or rest.max() > high / 4


def test_initial_weights() -> None:
    layer = make_layer(init_weights=True)
    bound = D_IN**-0.5
    for name in ("A", "router"):
        weight = layer.weight_module(name, "default").weight
        assert 0.5 * bound < weight.abs().max() <= bound
    assert not layer.weight_module("B", "default").weight.any()


@pytest.mark.parametrize("make", [lambda: {"dropout": 0.0}, lambda: {"dropout": 0.3, "router_hidden": 2}])
def test_shapes(make: Callable[[], dict[str, object]]) -> None:
    layer = make_layer(**make())
    assert layer(torch.randn(D_IN, dtype=torch.float64)).shape == (D_OUT,)
    assert layer(torch.randn(2, 3, 4, D_IN, dtype=torch.float64)).shape == (2, 3, 4, D_OUT)
    assert layer(torch.empty(0, D_IN, dtype=torch.float64)).shape == (0, D_OUT)
