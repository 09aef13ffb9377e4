"""Checkpointed layers that leave the down projection out when they are computed again: the same bits, less work."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_models import IMAGE_TOKEN, LLAVA_TARGETS, enable_checkpointing, gradients, make_llava
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import mlp as mlp_form
from llava_teamlora.tuners.routed import recompute
from llava_teamlora.tuners.routed.recompute import is_recomputing, skip_recomputed_outputs, skipping_contexts


@pytest.fixture
def skips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A list that grows by `skip_output` each time that an MLP is computed as one."""
    made: list[bool] = []
    real = mlp_form.fused_mlp

    def counted(*args: Any, skip_output: bool = False) -> Any:
        made.append(skip_output)
        return real(*args, skip_output=skip_output)

    monkeypatch.setattr(mlp_form, "fused_mlp", counted)
    yield made


def step(model: PeftModel, **inputs: Tensor) -> dict[str, Tensor]:
    """Loss and gradients, with the same dropout each time."""
    model.zero_grad()
    torch.manual_seed(5)
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    return {"loss": loss.detach(), **gradients(model)}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("fields", [{}, {"dropout": 0.3}, {"balance_loss_coef": 0.3}, {"impl": "linear"}], ids=str)
def test_gradients_do_not_change_in_a_bit(
    make_random: Any, ids: Tensor, skips: list[bool], fields: dict[str, Any], early_stop: bool
) -> None:
    model = make_random(**fields).train()
    without = step(model, input_ids=ids)
    enable_checkpointing(model, reentrant=False)
    with set_checkpoint_early_stop(early_stop):
        checkpointed = step(model, input_ids=ids)
        assert not any(skips)
        assert skip_recomputed_outputs(model) >= 2
        assert skip_recomputed_outputs(model) == 0  # once is enough
        skips.clear()
        assert_same_bits(step(model, input_ids=ids), checkpointed)
    assert skips == ([] if fields.get("impl") else [False, False, True, True])
    assert_same_bits(checkpointed, without)
    assert not is_recomputing()


def test_in_a_llava_under_autocast(ids: Tensor, skips: list[bool]) -> None:
    torch.manual_seed(1)
    config = TeamLoraConfig(r=2, num_experts=3, target_modules=LLAVA_TARGETS, init_weights=False)
    model = get_peft_model(make_llava(), config).train()
    ids[:, 1:5] = IMAGE_TOKEN
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}
    enable_checkpointing(model, reentrant=False)
    with torch.autocast("cpu", torch.bfloat16):
        checkpointed = step(model, **inputs)
        skip_recomputed_outputs(model)
        assert_same_bits(step(model, **inputs), checkpointed)
    assert skips == [False] * 6 + [True] * 2


def test_as_an_argument_of_checkpointing(make_random: Any, ids: Tensor, skips: list[bool]) -> None:
    model = make_random().train()
    expected = step(model, input_ids=ids)
    model.enable_input_require_grads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": skipping_contexts})
    assert skip_recomputed_outputs(model) == 0  # its contexts stay
    skips.clear()
    assert_same_bits(step(model, input_ids=ids), expected)
    assert skips == [False, False, True, True]


def test_a_region_is_gone_back_through_twice(make_random: Any, ids: Tensor, skips: list[bool]) -> None:
    model = make_random().train()
    enable_checkpointing(model, reentrant=False)
    assert skip_recomputed_outputs(model) > 0
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    assert_same_bits(gradients(model), {name: 2 * grad for name, grad in once.items()})
    assert skips == [False, False, True, True, True, True]


def test_a_layer_whose_hooks_run_inside_its_region_is_recomputed_in_full(
    make_random: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in transformers 5.17; the hook reads the layer's output, the MLP's in it."""
    monkeypatch.setattr(recompute, "_HOOKS_INSIDE", True)
    model = make_random().train()
    enable_checkpointing(model, reentrant=False)
    hooked, free = (module for module in model.modules() if isinstance(module, LlamaDecoderLayer))
    hooked.register_forward_hook(lambda module, args, output: output)
    assert skip_recomputed_outputs(model) > 0
    contexts = ["context_fn" in layer._gradient_checkpointing_func.keywords for layer in (hooked, free)]
    assert contexts == [False, True]


def test_debugging_takes_no_contexts(make_random: Any) -> None:
    model = make_random().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False, "debug": True})
    assert skip_recomputed_outputs(model) == 0


def test_the_reentrant_kind_stays_as_it_is(make_random: Any, ids: Tensor, skips: list[bool]) -> None:
    model = make_random().train()
    expected = step(model, input_ids=ids)
    enable_checkpointing(model, reentrant=True)
    assert skip_recomputed_outputs(model) == 0
    assert_same_bits(step(model, input_ids=ids), expected)
    assert not any(skips)


class NormedMlp(nn.Module):
    """A layer that reads its MLP's output again, as Gemma 2's do; so it keeps it."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.mlp = LlamaMLP(config)
        self.norm = LlamaRMSNorm(config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.mlp(x))


def test_a_layer_that_is_not_known_is_recomputed_in_full(skips: list[bool]) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
    targets = ["gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(NormedMlp(config), TeamLoraConfig(target_modules=targets, init_weights=False))
    x = torch.randn(3, 8, requires_grad=True)
    model(x).square().sum().backward()
    expected = gradients(model)
    model.zero_grad()
    y = checkpoint(model, x, use_reentrant=False, context_fn=skipping_contexts)
    y.square().sum().backward()
    assert_same_bits(gradients(model), expected)
    assert skips == [False] * 3


def test_a_region_of_two_layers_cannot_go_wrong_unseen(make_random: Any, ids: Tensor) -> None:
    """What was left out of the first is NaN, so no gradient is merely wrong."""
    model = make_random().train()
    base = model.base_model.model.model
    x = torch.randn(1, 4, 16, requires_grad=True)
    rotary = base.rotary_emb(x, torch.arange(4)[None])

    def both(x: Tensor) -> Tensor:
        for layer in base.layers:
            assert isinstance(layer, LlamaDecoderLayer)
            x = layer(x, position_embeddings=rotary)
        return x

    checkpoint(both, x, use_reentrant=False, context_fn=skipping_contexts).sum().backward()
    assert x.grad is not None and x.grad.isnan().any()


@pytest.mark.parametrize("skipping", [False, True])
def test_less_is_computed(make_random: Any, ids: Tensor, skipping: bool) -> None:
    model = make_random().train()
    enable_checkpointing(model, reentrant=False)
    counted = []
    for skip in (False, skipping):
        if skip:
            skip_recomputed_outputs(model)
        with FlopCounterMode(display=False) as counter:
            step(model, input_ids=ids)
        counted.append(counter.get_total_flops())
    base_weights = 2 * ids.numel() * 2 * 24 * 16  # two layers' down projections
    assert counted[0] - counted[1] >= base_weights if skipping else counted[0] == counted[1]
