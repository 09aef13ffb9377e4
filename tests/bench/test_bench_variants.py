"""Every variant computes its own equation, gradients too; the equation is written here once more, by einsum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from llava_teamlora.bench.cases import Case, adapted_linears, build_linear, build_mlp, cases_of, draw, forward
from llava_teamlora.bench.exactness import equation, errors_of
from llava_teamlora.bench.parts import Shape, Whole, parts_of
from llava_teamlora.bench.settings import LINEAR_VARIANTS, MLP_VARIANTS, OTHER_VARIANTS, MlpSettings, StepSettings
from llava_teamlora.bench.variants import VARIANTS
from llava_teamlora.errors import UserError

SIZES = {"d_in": 24, "d_out": 40, "tokens": 9}
WORST = {"fp32": 2e-6, "bf16": 3e-2, "amp": 3e-2}


def case_of(variant: str, dtype: str = "fp32", checkpointing: bool = False) -> Case:
    return Case("moelora-loop", 3, 4, dtype, checkpointing).of(variant)


@pytest.mark.parametrize("dtype", WORST)
@pytest.mark.parametrize("variant", (*LINEAR_VARIANTS, "moelora-linear", "hydralora-linear"))
def test_a_linear_computes_its_equation(variant: str, dtype: str) -> None:
    settings, case = StepSettings(**SIZES), case_of(variant, dtype)
    holder = build_linear(case, settings)
    x = draw(case, 9, 24, settings)
    errors = errors_of(forward(holder, case), adapted_linears(holder), x, VARIANTS[variant].equation, case.shape())
    assert errors.y <= WORST[dtype] and errors.gradients <= WORST[dtype]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", (*MLP_VARIANTS, *OTHER_VARIANTS))
def test_an_mlp_computes_its_equation(variant: str, checkpointing: bool) -> None:
    settings, case = MlpSettings(**SIZES), case_of(variant, checkpointing=checkpointing)
    holder = build_mlp(case, settings)
    x = draw(case, 9, 24, settings)
    errors = errors_of(forward(holder, case), adapted_linears(holder), x, VARIANTS[variant].equation, case.shape())
    assert errors.y <= 3e-6 and errors.gradients <= 6e-6


@pytest.mark.parametrize("shared", [False, True])
def test_the_equation(shared: bool) -> None:
    torch.manual_seed(0)
    n, d_in, d_out, k, r = 5, 7, 6, 3, 2
    x, w, router, m = (torch.randn(*size).double() for size in ((n, d_in), (d_out, d_in), (k, d_in), (k, k)))
    a, b = torch.randn(r if shared else k * r, d_in).double(), torch.randn(d_out, k * r).double()
    experts = a.expand(k, r, d_in) if shared else a.reshape(k, r, d_in)
    shares = torch.softmax(x @ router.T, -1) @ m.T
    update = torch.einsum("nd,krd,okr,nk->no", x, experts, b.reshape(d_out, k, r), shares)
    name = "hydralora" if shared else "teamlora"
    found = equation(name, x, w, Whole(a, b, router, m), Shape(k, r, scale=0.5))
    torch.testing.assert_close(found, x @ w.T + 0.5 * update)
    assert torch.equal(equation("base", x, w, Whole(), Shape(k, r)), x @ w.T)


def test_a_wrong_gradient_is_an_error() -> None:
    settings, case = StepSettings(**SIZES), case_of("moelora-stacked")
    holder = build_linear(case, settings)
    x = draw(case, 9, 24, settings)
    linears = adapted_linears(holder)
    (router,) = parts_of(linears["linear"]).router
    router.register_hook(lambda gradient: 1.01 * gradient)
    errors = errors_of(forward(holder, case), linears, x, "moelora", case.shape())
    assert errors.y < 1e-6 and errors.gradients == pytest.approx(0.01, rel=1e-2)


def test_variants_of_a_shape_start_from_the_same_weights() -> None:
    settings = StepSettings(**SIZES)
    found = {
        name: build_linear(case_of(name), settings) for name in ("moelora-loop", "moelora-stacked", "moelora-linear")
    }
    x = draw(case_of("moelora-loop"), 9, 24, settings)
    bases = [holder.get_submodule("linear.base") for name, holder in found.items() if name != "moelora-linear"]
    assert torch.equal(bases[0].weight, bases[1].weight)  # pyright: ignore[reportArgumentType]
    stacked, linear = found["moelora-stacked"](x), found["moelora-linear"](x)
    torch.testing.assert_close(stacked, linear, rtol=1e-5, atol=1e-6)


def test_a_loop_has_a_dropout_mask_for_each_expert() -> None:
    settings = StepSettings(**SIZES, dropout=0.5)
    masks = {}
    for name in ("moelora-loop", "moelora-stacked"):
        holder, seen = build_linear(case_of(name), settings), []
        for module in holder.modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output == 0))
        holder(draw(case_of(name), 9, 24, settings))
        masks[name] = seen
    assert len(masks["moelora-loop"]) == 3 and not torch.equal(*masks["moelora-loop"][:2])
    assert len(masks["moelora-stacked"]) == 1


def test_fused_lora_drops_out_as_its_gradient_says() -> None:
    """The same mask forward and backward: the gradient of x by the chain rule, with the mask read from z's rows."""
    settings = StepSettings(d_in=16, d_out=8, tokens=4, dropout=0.5)
    case = case_of("fused-lora")
    holder = build_linear(case, settings)
    layer = holder.get_submodule("linear")
    x = draw(case, 4, 16, settings)
    torch.manual_seed(1)
    y = holder(x)
    torch.manual_seed(1)
    mask = torch.native_dropout(torch.ones(4, 16), 0.5, True)[0]  # 0 or 2
    (a,), (b,), _, _ = parts_of(layer)
    other = x.detach().clone().requires_grad_()
    exact = other @ layer.base.weight.T + 2.0 * ((other * mask) @ a.T) @ b.T  # pyright: ignore
    torch.testing.assert_close(y, exact)
    mine = torch.autograd.grad(y.sin().sum(), [x, a, b])
    right = torch.autograd.grad(exact.sin().sum(), [other, a, b])
    for one, two in zip(mine, right, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_cases_are_of_equal_total_rank() -> None:
    settings = StepSettings(k=(1, 2, 4), total_rank=8, dtype=("fp32",), variants=("base", "moelora-loop"))
    cases = cases_of(settings)
    assert cases[0] == Case("peft-lora", 1, 8, "fp32")
    loops = [case for case in cases if case.variant == "moelora-loop"]
    assert [(case.k, case.r) for case in loops] == [(1, 8), (2, 4), (4, 2)]
    assert len(cases) == 1 + 1 + 3
    with pytest.raises(UserError, match="--total_rank 8 cannot be shared by 3 experts"):
        cases_of(replace(settings, k=(3,)))
