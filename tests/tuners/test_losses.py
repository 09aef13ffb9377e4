"""Auxiliary losses: their formulas, which positions count, and how they are added and scaled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import TaskType, get_peft_model
from tiny_models import IMAGE_TOKEN, LLAVA_TARGETS, enable_checkpointing
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import auxiliary_loss, balance_loss, record_routing, routed_layers, router_z_loss

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5], [9.0, 9.5, -9.0]])


def by_hand(logits: Tensor) -> tuple[float, float]:
    """Switch's balance loss and the router z-loss, position by position."""
    n, k = logits.shape
    phi = [[float(torch.exp(row[i]) / torch.exp(row).sum()) for i in range(k)] for row in logits]
    share = [sum(max(range(k), key=p.__getitem__) == i for p in phi) / n for i in range(k)]
    mean = [sum(p[i] for p in phi) / n for i in range(k)]
    z = sum(float(torch.log(torch.exp(row).sum())) ** 2 for row in logits) / n
    return k * sum(f * p for f, p in zip(share, mean, strict=True)), z


def test_formulas_and_mask() -> None:
    balance, z = by_hand(LOGITS)
    assert float(balance_loss(LOGITS)) == pytest.approx(balance, rel=1e-5)
    assert float(router_z_loss(LOGITS)) == pytest.approx(z, rel=1e-5)
    balance, z = by_hand(LOGITS[:3])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert float(balance_loss(LOGITS.view(2, 2, 3), mask)) == pytest.approx(balance, rel=1e-5)
    assert float(router_z_loss(LOGITS.view(2, 2, 3), mask)) == pytest.approx(z, rel=1e-5)
    nothing = torch.zeros(4)
    assert balance_loss(LOGITS, nothing) == 0 and router_z_loss(LOGITS, nothing) == 0


def test_balance_is_one_when_even_and_k_when_one_expert_takes_all() -> None:
    assert float(balance_loss(5.0 * torch.eye(3))) == pytest.approx(1.0)
    assert float(balance_loss(torch.tensor([[50.0, 0.0, 0.0]]))) == pytest.approx(3.0)


def adapter_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def expected_loss(model: nn.Module, balance: float, z: float, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
    """The mean over layers of the weighted losses, recorded in a pass of its own."""
    with record_routing(model) as records:
        model.eval()(**inputs, attention_mask=mask)
    model.train()
    each = [balance * balance_loss(r.logits, mask) + z * router_z_loss(r.logits, mask) for r in records]
    return torch.stack(each).mean()


@pytest.mark.parametrize("task_type", [None, TaskType.CAUSAL_LM])
@pytest.mark.parametrize("masked", [False, True])
def test_added_to_the_loss(make_random: Any, ids: Tensor, task_type: TaskType | None, masked: bool) -> None:
    model = make_random(balance_loss_coef=0.3, router_z_loss_coef=0.2, task_type=task_type)
    mask = torch.ones_like(ids)
    if masked:
        mask[0, 4:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    plain = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected = plain + expected_loss(model, 0.3, 0.2, mask, input_ids=ids)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask, labels=labels).loss, expected)
    output = model(input_ids=ids, attention_mask=mask, labels=labels, return_dict=False)
    torch.testing.assert_close(output[0], expected)
    changed = ids.masked_fill(mask == 0, 5)
    torch.testing.assert_close(model(input_ids=changed, attention_mask=mask, labels=labels).loss, expected)


def test_added_natively_and_to_llava(make_llava: Any, ids: Tensor) -> None:
    ids[:, 1:5] = IMAGE_TOKEN
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}
    model = make_llava()
    model.add_adapter(TeamLoraConfig(r=2, target_modules=LLAVA_TARGETS, balance_loss_coef=0.3))
    plain = model.eval()(**inputs, labels=ids).loss
    expected = plain + expected_loss(model, 0.3, 0.0, **inputs)
    torch.testing.assert_close(model(**inputs, labels=ids).loss, expected)


def test_vision_tower_layers_count_all_their_positions(make_llava: Any, ids: Tensor) -> None:
    ids[:, 1:5] = IMAGE_TOKEN
    mask = torch.ones_like(ids)
    mask[:, 6:] = 0
    model = get_peft_model(make_llava(), TeamLoraConfig(r=2, target_modules=["fc1"], balance_loss_coef=0.3)).train()
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8), "attention_mask": mask}
    with record_routing(model) as records:
        model(**inputs, labels=ids)
    assert {r.logits.shape for r in records} == {(2, 5, 4)}
    everywhere = torch.stack([0.3 * balance_loss(r.logits) for r in records]).mean()
    torch.testing.assert_close(auxiliary_loss(records, mask), everywhere)


def test_evaluation_and_frozen_or_disabled_adapters_add_nothing(make_random: Any, ids: Tensor) -> None:
    model, plain = make_random(balance_loss_coef=9.0), make_random()
    expected = plain(input_ids=ids, labels=ids).loss
    assert torch.equal(model(input_ids=ids, labels=ids).loss, expected)
    model.train()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, labels=ids).loss, expected)
    with model.disable_adapter(), plain.disable_adapter():
        assert torch.equal(model(input_ids=ids, labels=ids).loss, plain(input_ids=ids, labels=ids).loss)
    model.requires_grad_(False)
    assert torch.equal(model(input_ids=ids, labels=ids).loss, expected)


def test_no_coefficient_no_hook(make_random: Any, ids: Tensor) -> None:
    model = make_random().base_model.model
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_second_adapter_brings_its_losses(make_random: Any, ids: Tensor) -> None:
    model = make_random().train()
    model.add_adapter("other", TeamLoraConfig(r=2, router_z_loss_coef=1.0))
    plain = model(input_ids=ids, labels=ids).loss
    model.set_adapter("other")
    expected = model.eval()(input_ids=ids, labels=ids).loss + expected_loss(model, 0.0, 1.0, input_ids=ids)
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, expected)
    model.set_adapter("default")
    assert torch.equal(model(input_ids=ids, labels=ids).loss, plain)


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 3}], ids=str)
def test_recomputation_does_not_count_twice(make_random: Any, ids: Tensor, fields: dict) -> None:
    found = []
    for checkpointed in (False, True):
        model = make_random(balance_loss_coef=0.3, router_z_loss_coef=0.2, **fields).train()
        if checkpointed:
            enable_checkpointing(model, reentrant=False)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append({"loss": loss.detach(), **adapter_gradients(model)})
        assert all(layer.routing_sinks == () for layer in routed_layers(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_reentrant_checkpointing_is_refused(make_random: Any, ids: Tensor) -> None:
    model = make_random(balance_loss_coef=0.3).train()
    enable_checkpointing(model, reentrant=True)
    with pytest.raises(RuntimeError, match=r'no gradient.*{"use_reentrant": False}'):
        model(input_ids=ids, labels=ids)


def test_no_loss_to_add_to_is_refused(make_random: Any, ids: Tensor) -> None:
    model = make_random(balance_loss_coef=0.3).train()
    with pytest.raises(ValueError, match=r"returned no loss.*pass labels"):
        model(input_ids=ids)
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)


def test_a_pass_that_fails_leaves_nothing_behind(make_random: Any, ids: Tensor) -> None:
    model = make_random(balance_loss_coef=0.3).train()
    expected = model(input_ids=ids, labels=ids).loss
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids + 1000, labels=ids)
    assert torch.equal(model(input_ids=ids, labels=ids).loss, expected)
    assert all(layer.routing_sinks == () for layer in routed_layers(model))


def test_shares_of_micro_batches_sum_to_the_whole(make_random: Any, ids: Tensor) -> None:
    """With num_items_in_batch each micro-batch counts by its labelled tokens, shifted as the model's loss shifts."""
    model = make_random(balance_loss_coef=0.3)
    labels = ids.clone()
    labels[0, :3] = -100
    counts = [int((row[1:] != -100).sum()) for row in labels]
    for row in range(2):
        inputs = {"input_ids": ids[row : row + 1], "labels": labels[row : row + 1]}
        total = torch.tensor(sum(counts))
        plain = model.eval()(**inputs, num_items_in_batch=total).loss
        whole = expected_loss(model, 0.3, 0.0, input_ids=inputs["input_ids"])
        expected = plain + whole * counts[row] / sum(counts)
        torch.testing.assert_close(model(**inputs, num_items_in_batch=total).loss, expected)


class Rows(torch.utils.data.Dataset):
    """Eight rows; any two neighbours have eight valid tokens in sum."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        length = (3, 5, 5, 3, 4, 4, 2, 6)[index]
        ids = torch.randint(1, 60, (6,), generator=torch.Generator().manual_seed(index))
        mask = (torch.arange(6) < length).long()
        return {"input_ids": ids * mask, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


class InOrder(Trainer):
    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train_one_step(model: nn.Module, folder: Path, size: int, *, loss_kwargs: bool) -> dict[str, Tensor]:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=8 // size,
        max_steps=1,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="sgd",
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=Rows())
    assert trainer.model_accepts_loss_kwargs
    trainer.model_accepts_loss_kwargs = loss_kwargs
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    return {n: before[n] - p.detach() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("loss_kwargs", [True, False])
def test_accumulation_equals_one_batch(make_random: Any, tmp_path: Path, loss_kwargs: bool) -> None:
    """One batch of 8 and 4 x 2 take the same step. The z-loss is a mean, so its two forms are equal exactly."""
    steps = [
        train_one_step(make_random(router_z_loss_coef=0.5).double(), tmp_path, size, loss_kwargs=loss_kwargs)
        for size in (8, 2)
    ]
    without = train_one_step(make_random().double(), tmp_path, 8, loss_kwargs=loss_kwargs)
    router = next(name for name in without if "teamlora_router" in name)
    assert (steps[0][router] - without[router]).abs().max() > 1e-3
    # Without num_items_in_batch the Trainer averages the micro-batches' means, here over equal numbers of tokens.
    for name, step in steps[0].items():
        torch.testing.assert_close(steps[1][name], step, rtol=1e-9, atol=1e-12)
