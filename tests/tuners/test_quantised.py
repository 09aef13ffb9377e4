"""Quantised base layers, by bitsandbytes on the CPU."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.budget import count_trainable
from llava_teamlora.tuners.routed import routed_layers

pytest.importorskip("bitsandbytes")

KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Without gradients: with them bitsandbytes picks another kernel, of other rounding, on some processors."""
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> LlamaForCausalLM:
    torch.manual_seed(0)
    # bitsandbytes' kernel wants widths that are multiples of 64.
    widths = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**widths, vocab_size=64)).save_pretrained(tmp_path / "base")
    config = BitsAndBytesConfig(**request.param)
    return LlamaForCausalLM.from_pretrained(tmp_path / "base", quantization_config=config, device_map="cpu").eval()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_quantised_base(quantised: LlamaForCausalLM, ids: Tensor, tmp_path: Path) -> None:
    expected = logits_of(quantised, ids)
    parameters = sum(p.numel() for p in LlamaForCausalLM(quantised.config).parameters())
    model = get_peft_model(quantised, TeamLoraConfig(r=2)).eval()
    assert torch.equal(logits_of(model, ids), expected)
    assert all(layer.quantization_backend is not None for layer in routed_layers(model))
    assert "quantization_backend" in repr(routed_layers(model)[0])
    assert count_trainable(model).base == parameters

    base = {n: p.detach().clone() for n, p in model.named_parameters() if "teamlora_" not in n}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=20.0)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    tuned = logits_of(model, ids)
    assert (tuned - expected).abs().max() > 0.1

    model.save_pretrained(tmp_path / "adapter")
    # Reading the state dict makes bitsandbytes choose another kernel, of other rounding, with or without an adapter.
    close = {"rtol": 0.0, "atol": 0.02}
    bare = model.unload()
    torch.testing.assert_close(logits_of(bare, ids), expected, **close)
    loaded = PeftModel.from_pretrained(bare, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(loaded, ids), tuned, **close)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_prepared_for_training(quantised: LlamaForCausalLM, ids: Tensor) -> None:
    options = {"use_reentrant": False}
    model = prepare_model_for_kbit_training(quantised, gradient_checkpointing_kwargs=options)
    model = get_peft_model(model, TeamLoraConfig(r=2, balance_loss_coef=0.1)).train()
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert all(g.any() for n, g in gradients.items() if "teamlora_B" in n or "teamlora_router" in n)
