"""The mean of a routed adapter in dense weights: what is folded, and what it is said to cost."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapters import ROUTED, put, random_adapter, routed_config
from peft import get_peft_model
from tiny_models import IMAGE_TOKEN, LLAVA_TARGETS, make_llama, make_llava
from torch import Tensor

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import record_routing, routed_layers
from llava_teamlora.tuners.routed.adapter import adapter_of
from llava_teamlora.tuners.routed.mean_merge import approximate_merge, mean_delta_weight, mean_participation

Batch = dict[str, Tensor]


def batches(number: int = 3, seed: int = 7) -> list[Batch]:
    """Batches of unequal lengths, padded on the right; only the second half of each row is labelled."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(number):
        length = 6 + index
        ids = torch.randint(1, IMAGE_TOKEN, (2, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - 2 :] = 0
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, : length // 2] = -100
        made.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return made


@pytest.mark.parametrize("name", ROUTED)
def test_means_are_taken_over_valid_positions_alone(name: str) -> None:
    model = random_adapter(routed_config(name))
    data = batches()
    omegas: list[Tensor] = []
    for batch in data:
        for row in range(2):  # each row by itself, without its padding
            length = int(batch["attention_mask"][row].sum())
            with record_routing(model) as records:
                model(batch["input_ids"][row : row + 1, :length])
            omegas.append(torch.stack([record.participation[0] for record in records]))  # [layers, T, k]
    expected = torch.cat(omegas, dim=1).mean(dim=1)
    means = mean_participation(model, data)
    assert len(means) == 6
    for mean, wanted in zip(means.values(), expected, strict=True):
        torch.testing.assert_close(mean["default"], wanted)


@pytest.mark.parametrize("name", ROUTED)
def test_folded_weights_are_the_equations(name: str) -> None:
    model = random_adapter(routed_config(name))
    layer = routed_layers(model)[0]
    a, b = layer.linear("A", "default").weight, layer.linear("B", "default").weight
    omega = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    expected = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
    for i in range(3):
        a_i = a if layer.shared_down_projection else a[2 * i : 2 * i + 2]
        expected += layer.scaling["default"] * omega[i] * b[:, 2 * i : 2 * i + 2] @ a_i
    torch.testing.assert_close(mean_delta_weight(layer, "default", omega), expected)


@pytest.mark.parametrize("name", ROUTED)
def test_a_constant_participation_costs_nothing(name: str, ids: Tensor) -> None:
    """With the router at zero every token has the same omega: then the mean is the adapter."""
    model = random_adapter(routed_config(name))
    with torch.no_grad():
        for layer in routed_layers(model):
            layer.linear("router", "default").weight.zero_()
    expected = model(ids).logits
    merged = approximate_merge(model, batches())
    assert type(merged.model).__name__ == "LlamaForCausalLM" and not routed_layers(merged.model)
    torch.testing.assert_close(merged.model(ids).logits, expected, rtol=1e-11, atol=1e-11)
    cost = merged.calibration
    assert cost.max_abs_logit_difference < 1e-11 and cost.top1_agreement == 1.0 and merged.held_out is None
    assert cost.loss_before == pytest.approx(cost.loss_after, abs=1e-12)


@pytest.mark.parametrize("labelled", [True, False])
def test_costs_are_those_of_the_two_models(labelled: bool) -> None:
    model = random_adapter(routed_config("teamlora", modules_to_save=["lm_head"]), scale=2.0)
    twin = put(adapter_of(model))
    data, other = batches(), batches(2, seed=8)
    if not labelled:
        data, other = ([{n: v for n, v in b.items() if n != "labels"} for b in part] for part in (data, other))
    merged = approximate_merge(model, data, other)
    for cost, part in ((merged.calibration, data), (merged.held_out, other)):
        rows: dict[str, list[Tensor]] = {name: [] for name in ("before", "after", "targets")}
        for batch in part:
            for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
                inputs = batch["input_ids"][row : row + 1, :length]
                at = torch.arange(length)
                if labelled:
                    at = (batch["labels"][row, 1:length] != -100).nonzero()[:, 0]
                    rows["targets"].append(inputs[0, at + 1])
                rows["before"].append(twin(inputs).logits[0, at])
                rows["after"].append(merged.model(inputs).logits[0, at])
        before, after = torch.cat(rows["before"]), torch.cat(rows["after"])
        assert cost is not None and cost.positions == len(before)
        assert cost.mean_abs_logit_difference == pytest.approx((after - before).abs().mean().item())
        assert cost.max_abs_logit_difference == pytest.approx((after - before).abs().max().item())
        p, q = before.softmax(-1), after.softmax(-1)
        assert cost.kl_divergence == pytest.approx((p * (p / q).log()).sum(-1).mean().item())
        assert cost.kl_divergence > 1e-6
        assert cost.top1_agreement == pytest.approx((before.argmax(-1) == after.argmax(-1)).double().mean().item())
        if labelled:
            targets = torch.cat(rows["targets"])
            assert cost.loss_before == pytest.approx(F.cross_entropy(before, targets).item())
            assert cost.loss_after == pytest.approx(F.cross_entropy(after, targets).item())
        else:
            assert cost.loss_before is None and cost.loss_after is None


def test_the_folding_is_done_in_float32(ids: Tensor) -> None:
    """A bfloat16 base: the sum is rounded once, not the delta and then the sum."""
    torch.manual_seed(1)
    config = TeamLoraConfig(r=2, num_experts=3, init_weights=False, alpha=0.1)
    model = get_peft_model(make_llama().bfloat16(), config).eval()
    layer = routed_layers(model)[0]
    weight = layer.get_base_layer().weight.detach().clone()
    data = batches()
    omega = mean_participation(model, data)[next(n for n, m in model.named_modules() if m is layer)]["default"]
    wanted = weight.float() + mean_delta_weight(layer, "default", omega)
    merged: Any = approximate_merge(model, data).model
    found = merged.model.layers[0].mlp.gate_proj.weight
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted.bfloat16())
    assert not torch.equal(found, weight)


def test_a_llava_keeps_its_trained_projector(ids: Tensor) -> None:
    ids[:, 1:5] = IMAGE_TOKEN
    data = [{"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}]
    config = TeamLoraConfig(
        r=2, num_experts=3, init_weights=False, target_modules=LLAVA_TARGETS, modules_to_save=["multi_modal_projector"]
    )
    model = get_peft_model(make_llava(), config).eval()
    projector = next(p for n, p in model.named_parameters() if "modules_to_save" in n)
    with torch.no_grad():
        projector.add_(1.0)
    before = model(**data[0]).logits
    merged = approximate_merge(model, data)
    assert not any("modules_to_save" in name for name in merged.model.state_dict())
    assert list(merged.model.state_dict()) == list(make_llava().state_dict())
    difference = (merged.model(**data[0]).logits - before).abs()
    assert merged.calibration.mean_abs_logit_difference == pytest.approx(difference.mean().item(), rel=1e-5)
    assert difference.max() < 0.3 * before.abs().max()


def test_what_cannot_be_folded_is_refused(ids: Tensor) -> None:
    data = batches()
    with pytest.raises(ValueError, match="no generator"):
        approximate_merge(random_adapter(routed_config("teamlora")), (batch for batch in data))
    with pytest.raises(ValueError, match="never came by this layer"):
        approximate_merge(random_adapter(routed_config("teamlora")), [])
    unlabelled = [{**batch, "labels": torch.full_like(batch["labels"], -100)} for batch in data]
    with pytest.raises(ValueError, match="no position to compare"):
        approximate_merge(random_adapter(routed_config("teamlora")), unlabelled)
    tied = make_llama()
    tied.lm_head.weight = tied.model.embed_tokens.weight
    model = get_peft_model(tied, TeamLoraConfig(r=2, target_modules=["lm_head"], init_weights=False))
    with pytest.raises(ValueError, match="its weight is tied"):
        approximate_merge(model, data)
    base = make_llama()
    model = get_peft_model(base, TeamLoraConfig(r=2, init_weights=False))
    with model.disable_adapter(), pytest.raises(ValueError, match="no active routed adapter"):
        approximate_merge(model, data)


def test_the_routed_model_is_whole_until_the_end(monkeypatch: pytest.MonkeyPatch, ids: Tensor) -> None:
    """A failure while the costs are measured leaves the model as it was."""
    from llava_teamlora.tuners.routed import mean_merge

    model = random_adapter(routed_config("teamlora"))
    expected = model(ids).logits

    def fail(*_: Any) -> None:
        raise RuntimeError("stop")

    monkeypatch.setattr(mean_merge.Tally, "add", fail)
    with pytest.raises(RuntimeError, match="stop"):
        approximate_merge(model, batches())
    assert torch.equal(model(ids).logits, expected) and math.isfinite(expected.sum().item())
