"""``--use_liger_kernel``: the same training without a batch's logits. Liger's function itself needs a GPU; its place is
taken by one that does the same with plain operations."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llava_teamlora.errors import UserError
from llava_teamlora.training import fused_loss
from llava_teamlora.training.flags import arguments as arguments_module
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.training.fused_loss import answer_loss, fuse_loss

FLAG = ("--use_liger_kernel", "True")


@pytest.fixture
def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put plain operations in the place of Liger's; how many hidden states each call multiplied by the vocabulary."""
    seen: list[int] = []

    def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str) -> Tensor:
        seen.append(len(hidden))
        return F.cross_entropy(hidden @ weight.T, targets, reduction=reduction)

    monkeypatch.setattr(fused_loss, "_liger_function", lambda: cross_entropy)
    return seen


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=20, pad_token_id=0)).train()


def batch() -> dict[str, Tensor]:
    ids = torch.randint(1, 20, (2, 7), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :4] = labels[1, 5:] = -100
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("count", [None, 3, torch.tensor(5)])
def test_loss_and_gradients_are_the_models_own(rows_seen: list[int], count: Tensor | int | None) -> None:
    plain, fused = make_model(), make_model()
    fuse_loss(fused)
    losses = [model(**batch(), num_items_in_batch=count).loss for model in (plain, fused)]
    torch.testing.assert_close(losses[0], losses[1])
    assert rows_seen == [7]  # three answers' tokens of one sample; four of the other, whose first predicts the second
    for loss in losses:
        loss.backward()
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_copy_computes_with_its_own_weights(rows_seen: list[int]) -> None:
    model = make_model()
    fuse_loss(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert other(**batch()).loss.item() == pytest.approx(math.log(20))  # every token of 20 alike
    assert model(**batch()).loss.item() != pytest.approx(math.log(20))


def test_only_a_training_loss_is_fused(rows_seen: list[int]) -> None:
    plain, fused = make_model(), make_model()
    fuse_loss(fused)
    given = batch()
    assert torch.equal(fused(given["input_ids"]).logits, plain(given["input_ids"]).logits)
    outputs = [model.eval()(**given) for model in (plain, fused)]
    assert torch.equal(outputs[0].logits, outputs[1].logits) and torch.equal(outputs[0].loss, outputs[1].loss)
    assert rows_seen == []
    # What generation and the Trainer read off a model.
    assert inspect.signature(fused.forward) == inspect.signature(plain.forward)


def test_a_batch_without_answers_has_loss_0(rows_seen: list[int]) -> None:
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    loss = answer_loss(hidden, torch.randn(5, 4), torch.full((2, 3), -100), torch.tensor(1))
    loss.backward()
    assert loss.item() == 0 and hidden.grad is not None and not hidden.grad.any()


def test_a_model_that_is_not_known_is_refused() -> None:
    other = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20))
    with pytest.raises(UserError, match="GPT2LMHeadModel is of none of LlamaForCausalLM"):
        fuse_loss(other)
    model = make_model()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(UserError, match="lm_head, which is a Sequential"):
        fuse_loss(model)


def test_flags(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "liger_kernel" else real(name, *a)
    )
    with pytest.raises(UserError, match=r'pip install "llava-teamlora\[kernels\]"'):
        parse_arguments([*argv, *FLAG])
    spec = importlib.util.spec_from_loader("liger_kernel", None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: spec if name == "liger_kernel" else real(name, *a)
    )
    with pytest.raises(UserError, match="needs a CUDA device"):
        parse_arguments([*argv, *FLAG])
    assert parse_arguments([*argv, *FLAG, "--dry_run", "True"]).training.use_liger_kernel


def test_a_run_learns_the_same(
    trained: Callable[..., Path], tmp_path: Path, rows_seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments_module, "check_fused_loss", lambda arguments: None)
    plain = trained("--output_dir", str(tmp_path / "plain"))
    assert not rows_seen
    fused = trained("--output_dir", str(tmp_path / "fused"), *FLAG)
    assert rows_seen
    logs = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (plain, fused)]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, other = (load_file(run / "adapter_model.safetensors") for run in (plain, fused))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=2e-4)
    assert "use_liger_kernel: true" in (fused / "run.yaml").read_text()
