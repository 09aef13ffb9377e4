"""An adapter's life through peft's own interface, where TeamLoRA has more to it than test_matrix.py tries."""

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.helpers import rescale_adapter_scale
from safetensors.torch import load_file
from tiny_models import IMAGE_TOKEN, LLAVA_TARGETS
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.integrations import PeftAdapterMixin

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import routed_layers


def named_config(**fields: Any) -> TeamLoraConfig:
    return TeamLoraConfig(**{"r": 2, "num_experts": 3, "init_weights": False} | fields)


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 3}], ids=str)
def test_saved_keys(make_random: Any, tmp_path: Path, fields: dict) -> None:
    make_random(**fields).save_pretrained(tmp_path)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    names = ["A", "B", "router", "interaction"] + ["router_hidden"] * bool(fields)
    start = "base_model.model.model.layers.0.mlp.up_proj.teamlora_"
    assert {k for k in keys if "layers.0.mlp.up_proj" in k} == {f"{start}{name}.weight" for name in names}
    assert len(keys) == 6 * len(names)


def test_several_adapters(make_random: Any, make_llama: Any, ids: Tensor, tmp_path: Path) -> None:
    model = make_random()
    base, first = make_llama()(ids).logits, model(ids).logits
    model.add_adapter("second", named_config(r=1, num_experts=2, router_hidden=4))
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable and all(".default." in n for n in trainable)
    assert torch.equal(model(ids).logits, first)
    model.set_adapter("second")
    second = model.eval()(ids).logits
    assert not torch.equal(second, first)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable and all(".second." in n for n in trainable)
    model.base_model.set_adapter(["default", "second"])
    both = model(ids).logits
    assert not torch.equal(both, first) and not torch.equal(both, second)
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, base)
    model.save_pretrained(tmp_path)
    model.set_adapter("default")
    assert torch.equal(model(ids).logits, first)
    with pytest.warns(UserWarning, match="Setting active adapter to second"):
        model.delete_adapter("default")
    assert not any(".default." in n for n, _ in model.named_parameters())
    model.set_adapter("second")
    assert torch.equal(model(ids).logits, second)
    model.load_adapter(tmp_path, adapter_name="default")
    model.set_adapter("default")
    assert torch.equal(model(ids).logits, first)


def test_deleting_the_last_adapter_leaves_the_base(make_random: Any, make_llama: Any, ids: Tensor) -> None:
    model = make_random()
    model.delete_adapter("default")
    # PeftModel itself wants an active adapter to look at; what it wraps does not.
    assert torch.equal(model.base_model(ids).logits, make_llama()(ids).logits)


def test_unload_gives_the_base_back(make_random: Any, make_llama: Any, ids: Tensor) -> None:
    model = make_random(balance_loss_coef=0.1).unload()
    assert isinstance(model, LlamaForCausalLM) and not routed_layers(model)
    assert torch.equal(model(ids).logits, make_llama()(ids).logits)
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert list(model.state_dict()) == list(make_llama().state_dict())


def test_mixed_batches_are_refused_in_words(make_random: Any, make_llama: Any, ids: Tensor) -> None:
    model = make_random()
    names = ["default", "__base__"]
    for call in (model, model.generate, model.base_model):
        with pytest.raises(NotImplementedError, match=r"adapter_names=\['default', '__base__'\].*set_adapter"):
            call(input_ids=ids, adapter_names=names)
    assert torch.equal(model(ids, adapter_names=None).logits, model(ids).logits)
    assert model.generate(input_ids=ids, max_new_tokens=2, do_sample=False).shape == (2, 9)


def test_copy_and_pickle(make_random: Any, ids: Tensor) -> None:
    model = make_random(balance_loss_coef=0.1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(ids).logits, model(ids).logits)
        twin.train()(input_ids=ids, labels=ids).loss.backward()
        assert all(p.grad is None for p in model.parameters())


def test_scaling(make_random: Any, make_llama: Any, ids: Tensor) -> None:
    model = make_random(alpha=6)
    layer = routed_layers(model)[0]
    assert layer.scaling == {"default": 3.0}
    layer.scale_layer(0.5)
    assert layer.scaling == {"default": 1.5}
    layer.unscale_layer(0.5)
    layer.set_scale("default", 2.0)
    assert layer.scaling == {"default": 6.0}
    layer.unscale_layer()
    assert layer.scaling == {"default": 3.0}
    for each in routed_layers(model):
        each.set_scale("default", 0.0)
    torch.testing.assert_close(model(ids).logits, make_llama()(ids).logits)


def test_projector_saved_beside_the_adapter(make_llava: Any, ids: Tensor, tmp_path: Path) -> None:
    ids[:, 1:5] = IMAGE_TOKEN
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}
    config = named_config(target_modules=LLAVA_TARGETS, modules_to_save=["multi_modal_projector"])
    model = get_peft_model(make_llava(), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    expected = model(**inputs).logits
    assert torch.equal(PeftModel.from_pretrained(make_llava(), tmp_path)(**inputs).logits, expected)
    if "AuxiliaryTrainingWrapper" not in inspect.getsource(PeftAdapterMixin.load_adapter):
        pytest.skip("this transformers' own load_adapter leaves modules_to_save out; PeftModel loads them")
    native = make_llava()
    native.load_adapter(tmp_path)
    assert torch.equal(native(**inputs).logits, expected)


def test_generation(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    for n in range(3):
        logits = model(out[:, : 7 + n]).logits[:, -1]
        assert torch.equal(logits.argmax(-1), out[:, 7 + n])


def test_input_dtype_casting_can_be_disabled(make_random: Any) -> None:
    layer = routed_layers(make_random())[0]
    layer.cast_input_dtype_enabled = False
    assert layer(torch.randn(3, 16)).shape == (3, 24)


def test_rescaling_context_of_peft_names_no_routed_layer(make_random: Any) -> None:
    """peft's helper knows LoRA only, and says so; set_scale is the way here."""
    with pytest.raises(ValueError, match="scaling"), rescale_adapter_scale(make_random(), 0.5):
        pass
