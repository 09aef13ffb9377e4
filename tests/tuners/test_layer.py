"""What routing adds inside models: dtypes of the router, an MLP router, dropout, recording.

What holds for every method is in test_matrix.py.
"""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_models import enable_checkpointing, gradients
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaMLP

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import record_routing, routed_layers


@pytest.mark.parametrize("fields", [{"router_hidden": 3}, {"interaction_init": "literal"}], ids=str)
def test_output_at_start_is_the_base_models(make_llama: Any, ids: Tensor, fields: dict) -> None:
    expected = make_llama()(ids).logits
    model = get_peft_model(make_llama(), TeamLoraConfig(r=2, **fields)).eval()
    assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_base_keeps_wide_adapters_and_router(make_llama: Any, ids: Tensor, dtype: torch.dtype) -> None:
    wide = get_peft_model(make_llama(), TeamLoraConfig(r=2, init_weights=False)).eval()
    model = get_peft_model(make_llama().to(dtype), TeamLoraConfig(r=2, init_weights=False)).eval()
    state = {n: p for n, p in wide.state_dict().items() if "teamlora_" in n}
    model.load_state_dict(state, strict=False)
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if "teamlora_" in n)
    with record_routing(model) as records:
        logits = model(ids).logits
    assert logits.dtype == dtype
    assert {r.logits.dtype for r in records} == {torch.float32} == {r.participation.dtype for r in records}
    torch.testing.assert_close(logits.float(), wide(ids).logits, rtol=0.05, atol=0.02)


def test_adapter_in_half_precision_routes_in_single(make_llama: Any, ids: Tensor) -> None:
    config = TeamLoraConfig(r=2, init_weights=False)
    model = get_peft_model(make_llama().bfloat16(), config, autocast_adapter_dtype=False).train()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    with record_routing(model) as records:
        model(input_ids=ids, labels=ids).loss.backward()
    assert {r.logits.dtype for r in records} == {torch.float32}
    assert all(g.isfinite().all() and g.dtype == torch.bfloat16 for g in gradients(model).values())


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_keeps_the_router_in_single_precision(make_random: Any, ids: Tensor, base_dtype: torch.dtype) -> None:
    model = make_random().train()
    if base_dtype != torch.float32:
        for name, parameter in model.named_parameters():
            if "teamlora_" not in name:
                parameter.data = parameter.data.to(base_dtype)
    reference = make_random()(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16), record_routing(model) as records:
        output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    assert {r.logits.dtype for r in records} == {torch.float32}
    torch.testing.assert_close(output.logits.float(), reference, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(model).values())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(make_random: Any, ids: Tensor, reentrant: bool) -> None:
    """Dropout's mask is drawn again as it was."""
    fields = {"router_hidden": 3, "dropout": 0.2}
    plain, checkpointed = make_random(**fields).train(), make_random(**fields).train()
    enable_checkpointing(checkpointed, reentrant)
    found = []
    for model in (plain, checkpointed):
        torch.manual_seed(5)
        model(input_ids=ids, labels=ids).loss.backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_without_breaks(make_random: Any, autocast: bool) -> None:
    torch._dynamo.reset()
    mlp = make_random(router_hidden=3, dropout=0.1).eval().base_model.model.model.layers[0].mlp
    assert isinstance(mlp, LlamaMLP)
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 16)
    found = []
    for function in (mlp, compiled):
        mlp.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = function(x)
        y.float().square().sum().backward()
        found.append({"y": y.detach(), **gradients(mlp)})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 12
    for name, value in found[0].items():
        # In bfloat16 both round, each at other places.
        assert (found[1][name] - value).norm() <= (0.05 if autocast else 1e-5) * value.norm(), name


def test_recording_is_off_unless_asked(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    with record_routing(model) as outer, record_routing(model) as inner:
        model(ids)
    assert len(outer) == len(inner) == 6
    assert outer[0].adapter == "default" and outer[0].participation.shape == (2, 7, 3)
    assert all(layer.routing_sinks == () for layer in routed_layers(model))
    model(ids)
    assert len(outer) == 6
