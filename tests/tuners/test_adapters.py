"""The life of an adapter through peft's and transformers' own interfaces."""

import copy
import inspect
import pickle
import subprocess
import sys
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
from llava_teamlora.tuners.teamlora import TeamLoraLinear

FRESH = """
import sys, torch, llava_teamlora
from peft import PeftModel
from transformers import LlamaForCausalLM
base = LlamaForCausalLM.from_pretrained(sys.argv[1])
logits = PeftModel.from_pretrained(base, sys.argv[2])(torch.load(sys.argv[3])).logits
native = LlamaForCausalLM.from_pretrained(sys.argv[1])
native.load_adapter(sys.argv[2])
torch.save([logits, native(torch.load(sys.argv[3])).logits], sys.argv[4])
"""


def named_config(**fields: Any) -> TeamLoraConfig:
    return TeamLoraConfig(**{"r": 2, "num_experts": 3, "init_weights": False} | fields)


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 3}], ids=str)
def test_saved_keys_and_loading_under_another_name(
    make_llama: Any, make_random: Any, ids: Tensor, tmp_path: Path, fields: dict
) -> None:
    model = make_random(**fields)
    expected = model(ids).logits
    model.save_pretrained(tmp_path)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    names = ["A", "B", "router", "interaction"] + ["router_hidden"] * bool(fields)
    start = "base_model.model.model.layers.0.mlp.up_proj.teamlora_"
    assert {k for k in keys if "layers.0.mlp.up_proj" in k} == {f"{start}{name}.weight" for name in names}
    assert len(keys) == 6 * len(names)
    for options in ({}, {"adapter_name": "other"}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        loaded = PeftModel.from_pretrained(make_llama(), tmp_path, **options)
        assert torch.equal(loaded(ids).logits, expected), options
        assert any(p.requires_grad for p in loaded.parameters()) == ("is_trainable" in options)


def test_fresh_process_and_native_loading(make_random: Any, make_llama: Any, ids: Tensor, tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path / "base")
    model = make_random()
    model.save_pretrained(tmp_path / "adapter")
    torch.save(ids, tmp_path / "ids.pt")
    paths = [str(tmp_path / name) for name in ("base", "adapter", "ids.pt", "out.pt")]
    result = subprocess.run([sys.executable, "-c", FRESH, *paths], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for logits in torch.load(tmp_path / "out.pt"):
        assert torch.equal(logits, model(ids).logits)


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


def test_merging_is_refused_in_words(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    expected = model(ids).logits
    for merge in (
        model.merge_and_unload,
        model.merge_adapter,
        model.base_model.model.model.layers[0].mlp.up_proj.merge,
    ):
        with pytest.raises(NotImplementedError, match=r"depends on the input.*unload\(\)"):
            merge()
    assert torch.equal(model(ids).logits, expected)


def test_mixed_batches_are_refused_in_words(make_random: Any, make_llama: Any, ids: Tensor) -> None:
    model = make_random()
    names = ["default", "__base__"]
    for call in (model, model.generate, model.base_model):
        with pytest.raises(NotImplementedError, match=r"adapter_names=\['default', '__base__'\].*set_adapter"):
            call(input_ids=ids, adapter_names=names)
    assert torch.equal(model(ids, adapter_names=None).logits, model(ids).logits)
    assert model.generate(input_ids=ids, max_new_tokens=2, do_sample=False).shape == (2, 9)


def test_modules_to_save(make_llama: Any, ids: Tensor, tmp_path: Path) -> None:
    model = get_peft_model(make_llama(), named_config(modules_to_save=["lm_head"]))
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.add_(1.0)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path)
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


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


def test_native_adapter_on_llama(make_llama: Any, make_random: Any, ids: Tensor, tmp_path: Path) -> None:
    random = make_random()
    random.save_pretrained(tmp_path)
    expected, plain = random(ids).logits, make_llama()(ids).logits
    model = make_llama()
    model.load_adapter(tmp_path, adapter_name="loaded")
    assert torch.equal(model(ids).logits, expected)
    with pytest.warns(UserWarning, match="multiple adapters"):
        model.add_adapter(named_config(init_weights=True), adapter_name="fresh")
    assert torch.equal(model(ids).logits, plain)
    model.set_adapter("loaded")
    model.disable_adapters()
    assert torch.equal(model(ids).logits, plain)
    model.enable_adapters()
    assert torch.equal(model(ids).logits, expected)
    model.save_pretrained(tmp_path / "again")
    again = make_llama()
    again.load_adapter(tmp_path / "again")
    assert torch.equal(again(ids).logits, expected)
    with pytest.warns(UserWarning, match="Setting active adapter to fresh"):
        model.delete_adapter("loaded")
    model.delete_adapter("fresh")
    assert torch.equal(model(ids).logits, plain)


def test_native_adapter_on_llava(make_llava: Any, ids: Tensor, tmp_path: Path) -> None:
    ids[:, 1:5] = IMAGE_TOKEN
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}
    model = get_peft_model(make_llava(), named_config(target_modules=LLAVA_TARGETS)).eval()
    model.save_pretrained(tmp_path)
    expected = model(**inputs).logits
    native = make_llava()
    assert not torch.equal(native(**inputs).logits, expected)
    native.load_adapter(tmp_path)
    assert torch.equal(native(**inputs).logits, expected)
    added = make_llava()
    added.add_adapter(named_config(target_modules=LLAVA_TARGETS))
    assert sum(isinstance(m, TeamLoraLinear) for m in added.modules()) == 6
    trained = {n.split(".")[-3] for n, p in added.named_parameters() if p.requires_grad}
    assert trained == {f"teamlora_{name}" for name in ("A", "B", "router", "interaction")}


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
