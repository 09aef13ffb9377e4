"""The MLP computed as one: against a loop written from the equations, and against the plain form in whole models."""

import copy
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapters import ROUTED
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import IMAGE_TOKEN, LLAVA_TARGETS, gradients, make_llama, make_llava
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import mlp as mlp_form
from llava_teamlora.tuners.routed import record_routing
from llava_teamlora.tuners.routed.layer import set_impl

D, HIDDEN, K, R, ALPHA = 6, 10, 3, 2, 7
WIDTHS = {"hidden_size": D, "intermediate_size": HIDDEN, "num_attention_heads": 1, "num_key_value_heads": 1}
FFN = ["gate_proj", "up_proj", "down_proj"]
KNOWN = {
    "llama": lambda **fields: LlamaMLP(LlamaConfig(**WIDTHS, **fields)),
    "mistral": lambda **fields: MistralMLP(MistralConfig(**WIDTHS, **fields)),
    "qwen2": lambda **fields: Qwen2MLP(Qwen2Config(**WIDTHS, **fields)),
    "qwen3": lambda **fields: Qwen3MLP(Qwen3Config(**WIDTHS, **fields)),
}


class Holder(nn.Module):
    """A model of one MLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A list that grows by `skip_output` each time that an MLP is computed as one."""
    made: list[bool] = []
    real = mlp_form.fused_mlp

    def counted(*args: Any, skip_output: bool = False) -> Any:
        made.append(skip_output)
        return real(*args, skip_output=skip_output)

    monkeypatch.setattr(mlp_form, "fused_mlp", counted)
    yield made


def make_mlp(method: str = "teamlora", known: str = "llama", base: dict | None = None, **fields: Any) -> PeftModel:
    """One MLP in float64, its adapters random in every weight."""
    torch.manual_seed(0)
    base = {"mlp_bias": True} if known == "llama" and base is None else base or {}
    given = {"r": R, "num_experts": K, "alpha": ALPHA, "target_modules": FFN, "init_weights": False}
    model = get_peft_model(Holder(KNOWN[known](**base)), ROUTED[method](**given | fields))
    assert isinstance(model, PeftModel)
    return model.double()


def make_input(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def one_linear(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 8 to 13 for tokens ``[N, D_in]``, an expert at a time; the router's logits too."""
    w = {n: m["default"].weight for n in layer.weight_names if "default" in (m := getattr(layer, layer.prefix + n))}
    logits = x @ w["router"].T
    phi = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)  # (11)
    omega = phi @ w["interaction"].T if "interaction" in w else phi  # (12)
    z, y = x @ w["A"].T, x @ layer.base_layer.weight.T
    if layer.base_layer.bias is not None:
        y = y + layer.base_layer.bias
    for i in range(K):
        z_i = z if layer.shared_down_projection else z[:, i * R : (i + 1) * R]  # (8)
        y = y + ALPHA / R * omega[:, i : i + 1] * (z_i @ w["B"][:, i * R : (i + 1) * R].T)  # (9), (13)
    return y, logits


def equations(mlp: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The MLP and the logits of gate, up and down, for tokens ``[N, D]``."""
    gate, of_gate = one_linear(mlp.gate_proj, x)
    up, of_up = one_linear(mlp.up_proj, x)
    y, of_down = one_linear(mlp.down_proj, gate / (1 + torch.exp(-gate)) * up)
    return y, [of_gate, of_up, of_down]


def assert_equal_grads(
    model: nn.Module, x: Tensor, found: list[Tensor], expected: list[Tensor], atol: float, keep: bool = False
) -> None:
    """Weigh outputs at random, and compare the gradients of the input and of all that is trained."""
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in expected]
    one, other = (
        torch.autograd.grad(tensors, leaves, weights, retain_graph=keep, materialize_grads=True)
        for tensors in (found, expected)
    )
    for a, b in zip((*found, *one), (*expected, *other), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize(("method", "known"), [*((m, "llama") for m in ROUTED), *(("teamlora", k) for k in KNOWN)])
def test_values_logits_and_gradients_are_those_of_the_equations(method: str, known: str, calls: list[bool]) -> None:
    model = make_mlp(method, known)
    x = make_input(2, 5)
    with record_routing(model) as records:
        y = model(x)
    assert calls == [False]
    expected, logits = equations(model.base_model.model.mlp, x.flatten(0, 1))
    found = [record.logits for record in records]
    assert [record.layer for record in records] == [getattr(model.base_model.model.mlp, name) for name in FFN]
    expected, logits = expected.unflatten(0, (2, 5)), [one.unflatten(0, (2, 5)) for one in logits]
    assert_equal_grads(model, x, [y, *found], [expected, *logits], 1e-11, keep=True)
    assert_equal_grads(model, x, [model(x)], [expected], 1e-11, keep=True)  # nobody listens
    assert_equal_grads(model, x, found[1:2], logits[1:2], 1e-11)  # nobody reads the output


@pytest.mark.parametrize("ranks", [{}, {"up_proj": 5}])
def test_ranks_may_differ_and_dropout_is_that_of_each_linear(ranks: dict[str, int], calls: list[bool]) -> None:
    model = make_mlp(rank_pattern=ranks, dropout=0.4).train()
    x = make_input(50)
    found = []
    for impl in ("auto", "linear"):
        set_impl(model, impl)
        torch.manual_seed(3)
        found.append(model(x))
    assert calls == [False]
    assert_equal_grads(model, x, found[:1], found[1:], 1e-11)
    assert not torch.allclose(found[0], model.eval()(x))


def test_input_without_gradient_and_empty_batch(calls: list[bool]) -> None:
    model = make_mlp()
    model(make_input(4).detach()).sum().backward()
    before = gradients(model)
    model.zero_grad()
    model(make_input(4)).sum().backward()
    assert len(before) == 12 and all(torch.equal(p, before[n]) for n, p in gradients(model).items())
    model.zero_grad()
    empty = make_input(2, 0)
    y = model(empty)
    y.sum().backward()
    assert y.shape == (2, 0, D) and empty.grad is not None and empty.grad.shape == empty.shape
    assert len(calls) == 3 and all(not g.any() for g in gradients(model).values())


def error_and_gradients(model: PeftModel, x: Tensor, autocast: bool) -> dict[str, Tensor]:
    """Output and gradients, all float64; the backward pass runs inside of autocast too, as careless callers have it."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        y = model(x)
        (y.double() * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)).sum().backward()
    assert x.grad is not None
    found = {"y": y, "x": x.grad.clone(), **gradients(model)}
    x.grad = None
    return {name: value.detach().double() for name, value in found.items()}


@pytest.mark.parametrize("base", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("adapter", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision(base: torch.dtype, adapter: torch.dtype, autocast: bool, calls: list[bool]) -> None:
    torch.manual_seed(0)
    given = {"r": 8, "num_experts": K, "target_modules": FFN, "init_weights": False}
    config = LlamaConfig(hidden_size=64, intermediate_size=160)
    model = get_peft_model(Holder(LlamaMLP(config).to(base)), TeamLoraConfig(**given))
    for name, parameter in model.named_parameters():
        if "teamlora" in name:
            parameter.data = parameter.data.to(adapter)
    exact = copy.deepcopy(model).double()
    x = torch.randn(40, 64).to(base).requires_grad_()
    expected = error_and_gradients(exact, x.detach().double().requires_grad_(), autocast=False)
    errors = {}
    for impl in ("auto", "reference"):
        set_impl(model, impl)
        found = error_and_gradients(model, x, autocast)
        errors[impl] = {n: float((found[n] - v).norm() / v.norm()) for n, v in expected.items()}
    assert len(calls) == 2
    limit = 1e-6 if base == adapter == torch.float32 and not autocast else 1e-2
    for name, error in errors["auto"].items():
        assert error <= max(limit, 1.2 * errors["reference"][name]), (name, error, errors["reference"][name])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
def test_compiles_without_breaks(backend: str, method: str) -> None:
    torch._dynamo.reset()
    model = make_mlp(method)
    compiled = torch.compile(model.base_model.model.mlp, fullgraph=True, backend=backend)
    for shape in ((2, 5), (3, 4), (1, 9)):
        x = make_input(*shape)
        assert_equal_grads(model, x, [compiled(x)], [model(x)], 1e-11)


def saved_bytes(run: Callable[[Tensor], Tensor], model: nn.Module, shape: tuple[int, int]) -> int:
    """Bytes kept for the backward pass beside weights, each storage once."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run(torch.empty(shape, device="meta", dtype=torch.bfloat16, requires_grad=True))
    return sum(storage.nbytes() for storage in kept.values())


def test_what_is_kept_for_the_backward_pass_beside_peft_lora() -> None:
    config = LlamaConfig(hidden_size=4096, intermediate_size=11008)
    kept = []
    for adapter in (
        TeamLoraConfig(r=32, num_experts=4, target_modules=FFN),
        LoraConfig(r=128, target_modules=FFN),
    ):
        with torch.device("meta"):
            model = get_peft_model(Holder(LlamaMLP(config).bfloat16()), adapter).bfloat16()
        kept.append(saved_bytes(model, model, (2048, 4096)))
    assert kept[0] == 2 * 2048 * (4096 + 2 * 11008 + 3 * 144)
    assert kept[0] <= 0.57 * kept[1]


@pytest.mark.parametrize("vision", [False, True], ids=["llama", "llava"])
@pytest.mark.parametrize("method", ["teamlora", "moelora", "hydralora"])
def test_a_training_step_of_a_whole_model(method: str, vision: bool, ids: Tensor, calls: list[bool]) -> None:
    inputs = {"input_ids": ids}
    targets: Any = FFN
    if vision:
        ids[:, 1:5] = IMAGE_TOKEN
        inputs["pixel_values"] = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
        targets = LLAVA_TARGETS
    fields = {"balance_loss_coef": 0.3, "router_z_loss_coef": 0.1, "init_weights": False, "target_modules": targets}
    found = {}
    for impl, dtype in (("auto", torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(1)
        base = make_llava() if vision else make_llama()
        model = get_peft_model(base, ROUTED[method](r=R, num_experts=K, impl=impl, **fields)).train().to(dtype)
        if vision:
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        with record_routing(model) as records:
            loss = model(**inputs, labels=ids).loss
        loss.backward()
        values = {"loss": loss, **gradients(model), **{str(i): r.logits for i, r in enumerate(records)}}
        found[impl, dtype] = {name: value.detach().double() for name, value in values.items()}
    assert calls == [False, False]  # one for each layer, none in the reference
    for name, exact in found["reference", torch.float64].items():
        one, other = (found[impl, torch.float32][name] - exact for impl in ("auto", "reference"))
        # Over 14 tokens the reference itself is up to 2e-5 off, as the seed would have it.
        assert one.norm() <= max(5e-6 * exact.norm(), 4 * other.norm()), name


# What the model is otherwise ------------------------------------------------------------------------------------


def test_adding_switching_and_unloading(ids: Tensor, tmp_path: Path, calls: list[bool]) -> None:
    config = {"r": R, "num_experts": K, "init_weights": False}
    plain = make_llama()
    names = [type(m).__name__ for m in plain.modules()]
    expected = plain(ids).logits
    model = get_peft_model(plain, TeamLoraConfig(**config)).eval()
    model.add_adapter("other", TeamLoraConfig(**config))
    keys = set(model.state_dict())
    outputs = {}
    for adapter in ("default", "other"):
        model.set_adapter(adapter)
        outputs[adapter] = model(ids).logits
        set_impl(model, "reference")
        torch.testing.assert_close(model(ids).logits, outputs[adapter])
        set_impl(model, "auto")
    assert len(calls) == 4 and not torch.allclose(outputs["default"], outputs["other"])
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, expected)
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    again = PeftModel.from_pretrained(make_llama(), tmp_path / "other")
    assert torch.equal(again(ids).logits, outputs["other"]) and len(calls) == 6
    model.delete_adapter("default")
    assert torch.equal(model(ids).logits, outputs["other"])
    assert {key for key in keys if ".default." not in key} == set(model.state_dict())
    model = model.unload()
    assert torch.equal(model(ids).logits, expected)
    assert [type(m).__name__ for m in model.modules()] == names
    assert all(not vars(m).keys() & {"ends_layer", "forward"} for m in model.modules())


def test_copies_and_pickles(calls: list[bool]) -> None:
    model = make_mlp()
    x = make_input(3)
    stream = io.BytesIO()
    torch.save(model.base_model.model.mlp, stream)
    stream.seek(0)
    for other in (copy.deepcopy(model.base_model.model.mlp), torch.load(stream, weights_only=False)):
        assert type(other) is type(model.base_model.model.mlp)
        assert torch.equal(other(x), model(x))
        with torch.no_grad():
            other.gate_proj.base_layer.weight.zero_()  # a copy's own
        assert not torch.equal(other(x), model(x))
    assert len(calls) == 8


def hook(model: Any, part: str) -> list[int]:
    """Hook a part of the MLP; the list grows when the hook fires."""
    fired: list[int] = []
    model.base_model.model.mlp.get_submodule(part).register_forward_hook(lambda *_: fired.append(1))
    return fired


@pytest.mark.parametrize("part", ["gate_proj", "act_fn", "down_proj.base_layer", "up_proj.teamlora_B.default"])
def test_a_hook_on_a_part_fires(part: str, calls: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    model = make_mlp()
    x = make_input(4)
    expected = model(x)
    fired = hook(model, part)
    with caplog.at_level(logging.INFO, "llava_teamlora.tuners"):
        assert_equal_grads(model, x, [model(x)], [expected], 1e-11)
    assert fired and len(calls) == 1


def prepare_two_active(model: Any) -> None:
    config = TeamLoraConfig(r=R, num_experts=K, alpha=ALPHA, target_modules=FFN, init_weights=False)
    model.add_adapter("other", config)
    model.double().base_model.set_adapter(["default", "other"])


UNFIT: dict[str, Callable[[Any], object]] = {
    "one linear in the reference's form": lambda m: set_impl(m.base_model.model.mlp.up_proj, "reference"),
    "one linear by itself": lambda m: set_impl(m.base_model.model.mlp.up_proj, "linear"),
    "base weight trained": lambda m: m.base_model.model.mlp.down_proj.base_layer.weight.requires_grad_(),
    "two adapters active": prepare_two_active,
}


@pytest.mark.parametrize("why", UNFIT)
def test_where_it_cannot_run_the_linears_do(why: str, calls: list[bool]) -> None:
    model = make_mlp()
    UNFIT[why](model)
    x = make_input(4)
    found = model(x)
    set_impl(model, "reference")
    assert_equal_grads(model, x, [found], [model(x)], 1e-11)
    assert not calls


def test_other_mlps_are_left_alone(calls: list[bool]) -> None:
    class Doubled(LlamaMLP):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    config = LlamaConfig(**WIDTHS)
    patched = LlamaMLP(config)
    patched.forward = lambda x: 3 * LlamaMLP.forward(patched, x)
    others = {
        "subclass": (Doubled(config), FFN),
        "own forward": (patched, FFN),
        "gelu": (LlamaMLP(LlamaConfig(**WIDTHS, hidden_act="gelu")), FFN),
        "two of three": (LlamaMLP(config), FFN[:2]),
    }
    for name, (mlp, targets) in others.items():
        model = get_peft_model(Holder(mlp), TeamLoraConfig(target_modules=targets))
        with torch.no_grad():
            expected = mlp(x := make_input(3, dtype=torch.float32).detach())
            torch.testing.assert_close(model(x), expected)
        assert type(mlp) in (LlamaMLP, Doubled) and not calls, name


def test_the_gate_is_silu() -> None:
    """What KNOWN promises of the classes' own forward."""
    for make in KNOWN.values():
        mlp = make().double()
        x = make_input(3).detach()
        torch.testing.assert_close(mlp(x), mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x)))
