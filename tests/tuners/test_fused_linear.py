"""The routed linear as one autograd function, against a loop written from the equations in float64."""

from typing import Any

import pytest
import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn

from llava_teamlora import HydraLoraConfig, MoeLoraConfig, TeamLoraConfig
from llava_teamlora.tuners.routed import fused_linear as module
from llava_teamlora.tuners.routed.layer import RoutedLinear, set_impl

D_IN, D_OUT, K, R, ALPHA = 12, 10, 3, 2, 5
METHODS: dict[str, Any] = {
    "teamlora": TeamLoraConfig,
    "teamlora, M fixed": lambda **f: TeamLoraConfig(train_interaction=False, interaction_init="identity", **f),
    "moelora": MoeLoraConfig,
    "hydralora": HydraLoraConfig,
    "hydralora with M": lambda **f: HydraLoraConfig(train_interaction=True, **f),
}
Gradients = dict[str, Tensor]


class Single(nn.Module):
    """A model of one linear."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(D_IN, D_OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


def make_layer(method: str = "teamlora", dtype: torch.dtype = torch.float64, **fields: Any) -> RoutedLinear:
    """A layer random in every weight; base and adapter in `dtype`."""
    torch.manual_seed(0)
    said = {"r": R, "num_experts": K, "alpha": ALPHA, "target_modules": ["lin"], "init_weights": False}
    config: PeftConfig = METHODS[method](**said | fields)
    model: Any = get_peft_model(Single(), config).to(dtype).train()
    layer = model.base_model.model.lin
    assert isinstance(layer, RoutedLinear)
    return layer


def leaves_of(layer: RoutedLinear) -> dict[str, Tensor]:
    """Return the layer's weights by name, copied to float64; those of the adapter are leaves."""
    found = {name: layer.weight_module(name, "default") for name in ("A", "B", "router", "interaction")}
    leaves = {n: m.weight.detach().double().requires_grad_() for n, m in found.items() if m is not None}  # pyright: ignore
    base = layer.get_base_layer()
    return leaves | {"W": base.weight.detach().double(), "bias": base.bias.detach().double()}  # pyright: ignore


def loop(x: Tensor, w: dict[str, Tensor], keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Equations 8 to 13, a token and an expert at a time; returns outputs and logits."""
    rows, scores = [], []
    for n, token in enumerate(x):
        logits = torch.stack([token @ w["router"][i] for i in range(K)])
        phi = torch.exp(logits) / torch.exp(logits).sum()
        omega = w["interaction"] @ phi if "interaction" in w else phi
        z = w["A"] @ (token if keep is None else token * keep[n])
        y = w["W"] @ token + w["bias"]
        for i in range(K):
            z_i = z if len(z) == R else z[i * R : (i + 1) * R]
            y = y + ALPHA / R * omega[i] * (w["B"][:, i * R : (i + 1) * R] @ z_i)
        rows.append(y)
        scores.append(logits)
    return torch.stack(rows), torch.stack(scores)


def gradients_of(layer: RoutedLinear) -> Gradients:
    names = [n for n in ("A", "B", "router", "interaction") if layer.weight_module(n, "default") is not None]
    return {name: layer.weight_module(name, "default").weight.grad for name in names}  # pyright: ignore


def run_layer(layer: RoutedLinear, x: Tensor, g: Tensor, of_logits: Tensor | None = None) -> Gradients:
    """Return output, logits and all gradients of ``sum(y * g)``, plus ``sum(logits * of_logits)``."""
    records: list[Any] = []
    layer.routing_sinks = () if of_logits is None else (records,)
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = layer(x)
    loss = (y * g.to(y.dtype)).sum()
    if of_logits is not None:
        loss = loss + (records[0].logits * of_logits).sum()
    loss.backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **gradients_of(layer)}


def run_loop(layer: RoutedLinear, x: Tensor, g: Tensor, of_logits: Any = 0.0, keep: Tensor | None = None) -> Gradients:
    leaves, x = leaves_of(layer), x.detach().double().requires_grad_()
    y, logits = loop(x, leaves, keep)
    ((y * g.double()).sum() + (logits * of_logits).sum()).backward()
    grads = {name: leaf.grad for name, leaf in leaves.items() if leaf.requires_grad}
    return {"y": y.detach(), "x": x.grad, **grads}  # pyright: ignore[reportReturnType]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "update"])
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_loop(method: str, whole: bool, dropout: float) -> None:
    """Output and every gradient, with a loss on the logits too; with dropout, for the mask that was drawn."""
    layer = make_layer(method, dropout=dropout)
    if not whole:
        layer.base_layer.register_forward_hook(lambda *_: None)
    x, g, of_logits = draw(5, D_IN), draw(5, D_OUT, seed=4), draw(5, K, seed=5)
    keep = None
    if dropout:
        torch.manual_seed(7)
        keep = torch.native_dropout(torch.ones_like(x), dropout, True)[0]
        assert 0 < (keep == 0).sum() < keep.numel()
    torch.manual_seed(7)
    found, expected = run_layer(layer, x, g, of_logits), run_loop(layer, x, g, of_logits, keep)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
def test_gradcheck_of_both_outputs(method: str) -> None:
    layer = make_layer(method)
    records: list[Any] = []
    layer.routing_sinks = (records,)
    weights = [layer.linear(name, "default").weight for name in ("A", "B", "router")]

    def both(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        records.clear()
        y = layer(x)
        return y, records[0].logits

    assert torch.autograd.gradcheck(both, (draw(2, 3, D_IN).requires_grad_(), *weights))


def errors_of(found: Gradients, exact: Gradients) -> dict[str, float]:
    return {name: ((found[name].double() - value).norm() / value.norm()).item() for name, value in exact.items()}


CASTS = {
    "float32": (torch.float32, torch.float32, False, 1e-6),
    "bfloat16": (torch.bfloat16, torch.bfloat16, False, 7e-3),
    "bfloat16 base": (torch.bfloat16, torch.float32, False, 7e-3),
    "autocast": (torch.float32, torch.float32, True, 1e-2),  # weights and input lose digits too
    "autocast, bfloat16 base": (torch.bfloat16, torch.float32, True, 7e-3),
}


@pytest.mark.parametrize("kind", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
def test_rounding(method: str, kind: tuple[torch.dtype, torch.dtype, bool, float]) -> None:
    """Within the stated errors of float64; the output's dtype is that of plain operations.

    Nothing is worse than there but the router's gradient: the logits' own is rounded to the adapter's dtype.
    """
    base, adapter, autocast, allowed = kind
    layer = make_layer(method, dtype=adapter)
    layer.base_layer.to(base)
    x, g = draw(64, D_IN, dtype=base), draw(64, D_OUT, seed=4, dtype=torch.bfloat16)
    errors, dtypes = [], []
    for impl in ("linear", "reference"):
        set_impl(layer, impl)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = run_layer(layer, x, g)
        exact = run_loop(layer, x, g)
        dtypes.append({name: value.dtype for name, value in found.items()})
        errors.append(errors_of(found, exact))
    for name, fused in errors[0].items():
        assert fused <= allowed, (name, errors)
        assert fused <= max((1.5 if name == "router" else 1.2) * errors[1][name], 1e-6), (name, errors)
    assert dtypes[0] == dtypes[1]


def test_backward_within_autocast_computes_as_without() -> None:
    layer = make_layer(dtype=torch.float32)
    x, g = draw(4, D_IN, dtype=torch.float32), draw(4, D_OUT, dtype=torch.float32)
    expected = run_layer(layer, x, g)
    layer.zero_grad()
    y = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y.backward(g)
    for name, value in gradients_of(layer).items():
        assert torch.equal(value, expected[name]), name


def test_shapes_and_strides() -> None:
    layer = make_layer()
    x = draw(4, D_IN, 3).transpose(1, 2)  # [4, 3, D_IN]
    assert not x.is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()))
    assert layer(draw(D_IN)).shape == (D_OUT,)
    before = x.clone()
    layer(x).sum().backward()
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_empty_batch(method: str, dropout: float) -> None:
    layer = make_layer(method, dropout=dropout)
    x = torch.empty(2, 0, D_IN, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (2, 0, D_OUT) and x.grad is not None and x.grad.shape == x.shape
    assert all(not gradient.any() for gradient in gradients_of(layer).values())


@pytest.mark.parametrize("frozen", [("A",), ("B",), ("router",), ("interaction",), ("A", "router"), ("x",)], ids=str)
def test_what_is_frozen_gets_no_gradient_and_the_rest_is_as_before(frozen: tuple[str, ...]) -> None:
    layer = make_layer()
    x, g = draw(5, D_IN), draw(5, D_OUT, seed=4)
    expected = run_layer(layer, x, g)
    layer.zero_grad()
    for name in set(frozen) - {"x"}:
        layer.weight_module(name, "default").requires_grad_(False)  # pyright: ignore
    given = x.clone().requires_grad_("x" not in frozen)
    (layer(given) * g).sum().backward()
    for name, value in {"x": given.grad, **gradients_of(layer)}.items():
        if name in frozen:
            assert value is None, name
        else:
            torch.testing.assert_close(value, expected[name], msg=name)


def test_only_x_z_and_logits_are_kept() -> None:
    layer = make_layer(dtype=torch.float32)
    x = draw(400, D_IN, dtype=torch.float32).requires_grad_()
    weights = {p.data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert sorted(kept.values()) == [400 * 9, 400 * D_IN]  # [z | logits], filled up nowhere on a CPU


def test_second_derivative_is_refused() -> None:
    layer = make_layer()
    x = draw(2, D_IN).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
    set_impl(layer, "reference")
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    gradient.sum().backward()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
def test_compiles_for_sizes_that_change(method: str) -> None:
    """Without breaks; the second shape makes sizes symbolic."""
    torch._dynamo.reset()
    layer = make_layer(method, dropout=0.3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for shape in ((2, 5), (3, 7)):
        x, g = draw(*shape, D_IN), draw(*shape, D_OUT, seed=4)
        found = []
        for function in (layer, compiled):
            torch.manual_seed(5)
            layer.zero_grad()
            y = function(x)
            (y * g).sum().backward()
            found.append({"y": y.detach(), **gradients_of(layer)})
        for name, value in found[0].items():
            torch.testing.assert_close(found[1][name], value, msg=name)
    torch._dynamo.reset()


def test_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the reference: the tests above would pass on it too."""
    calls: list[bool] = []
    whole = module._FusedLinear.apply
    monkeypatch.setattr(module._FusedLinear, "apply", lambda *a: (calls.append(a[1] is not None), whole(*a))[1])
    layer = make_layer()
    layer(draw(2, D_IN))
    layer.base_layer.register_forward_hook(lambda *_: None)
    layer(draw(2, D_IN))
    assert calls == [True, False]
