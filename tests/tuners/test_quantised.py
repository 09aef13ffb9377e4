"""Quantised base layers, by bitsandbytes on the CPU."""

from pathlib import Path

import pytest
import torch
from cases import OURS, Case
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from llava_teamlora.tuners.budget import count_trainable
from llava_teamlora.tuners.low_rank import LowRankLinear
from llava_teamlora.tuners.routed import RoutedConfig
from llava_teamlora.tuners.routed import layer as routed_layer
from llava_teamlora.tuners.routed.layer import set_impl

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


NOISY = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
METHODS_OF_OURS = [case for case in OURS if case.model == "llama"]


@NOISY
@pytest.mark.parametrize("case", METHODS_OF_OURS, ids=str)
def test_quantised_base(quantised: LlamaForCausalLM, case: Case, ids: Tensor, tmp_path: Path) -> None:
    """The base's output at the start, training of the adapter alone, saving, unloading and loading."""
    expected = logits_of(quantised, ids)
    parameters = sum(p.numel() for p in LlamaForCausalLM(quantised.config).parameters())
    model = case.fresh(quantised)
    assert torch.equal(logits_of(model, ids), expected)
    layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    assert len(layers) == 3 and all(layer.quantization_backend is not None for layer in layers)
    assert "quantization_backend" in repr(layers[0])
    assert count_trainable(model).base == parameters

    base = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
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


@NOISY
@pytest.mark.parametrize("case", METHODS_OF_OURS, ids=str)
def test_merging_into_a_quantised_base(quantised: LlamaForCausalLM, case: Case, ids: Tensor) -> None:
    """What can be merged is, up to a second quantisation; what cannot is refused, and leaves the model as it was."""
    model = case.random(quantised)
    tuned = logits_of(model, ids)
    if not case.can_merge():
        with pytest.raises(NotImplementedError, match="depends on the input"):
            model.merge_and_unload()
        assert torch.equal(logits_of(model, ids), tuned)
        return
    for layer in [module for module in model.modules() if isinstance(module, LowRankLinear)]:
        wanted = (layer.get_base_weight() + layer.delta_weight("default")).detach()
        layer.merge(safe_merge=True)
        assert (layer.get_base_weight() - wanted).norm() < 0.12 * wanted.norm()
    assert (logits_of(model, ids) - tuned).norm() < tuned.norm()


@NOISY
@pytest.mark.parametrize("case", METHODS_OF_OURS, ids=str)
def test_prepared_for_training(quantised: LlamaForCausalLM, case: Case, ids: Tensor) -> None:
    options = {"use_reentrant": False}
    model = prepare_model_for_kbit_training(quantised, gradient_checkpointing_kwargs=options)
    config = case.config()
    if isinstance(config, RoutedConfig):
        config.balance_loss_coef = 0.1
    model = get_peft_model(model, config).train()
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert all(g.any() for n, g in gradients.items() if f"{model.base_model.prefix}B" in n or "_router" in n)


@NOISY
def test_only_the_update_is_fused(quantised: LlamaForCausalLM, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quantised base is called as ever; output and gradients are those of plain operations."""
    plain, read = routed_layer.fused_linear, []
    monkeypatch.setattr(routed_layer, "fused_linear", lambda x, w, *rest: (read.append(w), plain(x, w, *rest))[1])
    case = next(case for case in METHODS_OF_OURS if case.method.name == "teamlora")
    model = case.random(quantised).train()
    found = []
    for impl in ("auto", "reference"):
        set_impl(model, impl)
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        found.append({"loss": loss.detach(), **grads})
    assert read == [None] * 3
    assert found[0].keys() == found[1].keys() and len(found[0]) > 9
    for name, value in found[1].items():
        assert (found[0][name] - value).norm() <= 1e-4 * value.norm(), name
