"""Counts from the meta device, and the limits that TeamLoRA keeps at LLaVA-1.5-7B's shapes. Exact: nothing is timed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from llava_teamlora.bench.cases import Case
from llava_teamlora.bench.counters import count
from llava_teamlora.bench.settings import TraceSettings
from llava_teamlora.bench.trace import Traced, limits, trace

KS = (2, 4, 16)
SETTINGS = TraceSettings(
    k=KS,
    total_rank=128,
    variants=("base", "fused-lora", "moelora-loop", "teamlora-reference", "teamlora-linear", "teamlora-mlp"),
)


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(SETTINGS, lambda *told: None)


def counts(traced: Traced, part: str, variant: str, k: int) -> object:
    checkpointed = part.endswith("checkpointed")
    return traced[part, Case("moelora-loop", k, 128 // k, "bf16", checkpointed).of(variant)]


class Square(nn.Module):
    """Multiplies twice by one weight, through an in-place product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(6, 6, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).addmm_(x, self.weight.detach())


def test_counts_of_products_by_hand() -> None:
    module = Square()
    x = torch.empty(5, 6, device="meta", requires_grad=True)
    found = count(module, module, x, [x, module.weight])
    product = 2 * 5 * 6 * 6
    # Forward two, one of them in place; backward dx through both, dweight of one.
    assert found.flops == 5 * product
    assert found.saved_bytes == 4 * 5 * 6, "x once, the weight not"
    # Two products; three gradients and the sum of the two dx.
    assert found.kernels == 2 + 4


def test_a_linear_keeps_what_it_should(traced: Traced) -> None:
    tokens, half = SETTINGS.tokens, 2
    of = {name: counts(traced, "linear", name, 4) for name in ("base", "peft-lora", "teamlora-linear", "moelora-loop")}
    assert of["base"].saved_bytes == 0
    assert of["peft-lora"].saved_bytes == half * tokens * (4096 + 128)
    assert of["teamlora-linear"].saved_bytes == half * tokens * (4096 + 144)  # z, the logits, padding
    assert of["moelora-loop"].saved_bytes > half * tokens * 4 * 11008, "an output of full width for each expert"


def test_limits_hold_at_7b_shapes(traced: Traced) -> None:
    found = limits(traced)
    assert len(found) > 20
    assert [check for check in found if not check.holds] == []


@pytest.mark.parametrize("k", KS)
def test_an_mlp_keeps_little(traced: Traced, k: int) -> None:
    ours, peft, loop = (counts(traced, "mlp", name, k) for name in ("teamlora-mlp", "peft-lora", "moelora-loop"))
    assert ours.saved_bytes == 2 * SETTINGS.tokens * (4096 + 2 * 11008 + 3 * 144)
    assert ours.saved_bytes / peft.saved_bytes <= 0.57
    assert ours.saved_bytes / loop.saved_bytes <= {2: 0.28, 4: 0.19, 16: 0.06}[k]


def test_kernels_do_not_grow_with_experts(traced: Traced) -> None:
    for part in ("linear", "mlp", "mlp, checkpointed"):
        for name in ("teamlora-linear", "teamlora-mlp", "teamlora-reference"):
            if part != "linear" or name != "teamlora-mlp":
                kernels = [counts(traced, part, name, k).kernels for k in KS]
                # 16 experts fill up their rows by themselves: nothing is padded.
                assert kernels[0] == kernels[1] >= kernels[2], (part, name)
        loop = [counts(traced, part, "moelora-loop", k).kernels for k in KS]
        assert loop[2] > 5 * loop[0]


def test_what_is_computed_again_leaves_out_the_output(traced: Traced) -> None:
    part = "mlp, checkpointed"
    ours, linear, peft = (counts(traced, part, name, 4) for name in ("teamlora-mlp", "teamlora-linear", "peft-lora"))
    down = 2 * SETTINGS.tokens * 4096 * 11008
    assert linear.flops - ours.flops >= down
    assert ours.flops / peft.flops <= 0.9
    assert ours.saved_bytes == peft.saved_bytes == 2 * SETTINGS.tokens * 4096


def test_a_limit_that_is_broken_is_said(traced: Traced) -> None:
    wasteful = {
        key: replace(found, saved_bytes=10 * found.saved_bytes) if key[1].variant == "teamlora-mlp" else found
        for key, found in traced.items()
    }
    broken = [check.what for check in limits(wasteful) if not check.holds]
    assert len(broken) == 3 + 2, "over peft at each k, over the loop at 4 and 16"
    assert all("bytes kept" in what for what in broken)
