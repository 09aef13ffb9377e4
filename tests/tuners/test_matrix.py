"""What every method promises, tried on every method and model: see cases.py."""

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, LAYERED, OURS, Case
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_models import enable_checkpointing, gradients
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP

from llava_teamlora.tuners.low_rank import LowRankLinear

each = pytest.mark.parametrize("case", CASES, ids=str)
each_layered = pytest.mark.parametrize("case", LAYERED, ids=str)
each_of_ours = pytest.mark.parametrize("case", OURS, ids=str)


def logits(model: nn.Module, case: Case) -> Tensor:
    with torch.no_grad():
        return model.eval()(**case.inputs()).logits


@each_layered
def test_output_at_start_is_the_base_models(case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        base = case.base().to(dtype)
        expected = logits(base, case)
        model = case.fresh(base)
        assert torch.equal(logits(model, case), expected), dtype
        adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
        assert not any("vision_tower" in name for name in adapted)


@each
def test_training_moves_the_adapter_and_nothing_else(case: Case) -> None:
    base = case.base()
    frozen = {name: (parameter, parameter.clone()) for name, parameter in base.named_parameters()}
    model = case.fresh(base).train()
    inputs = case.inputs()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and not {id(p) for p, _ in frozen.values()} & {id(p) for p in trained}
    optimizer = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.1)
    losses = []
    for _ in range(5):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        assert all(p.grad is None for p, _ in frozen.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, (parameter, before) in frozen.items():
        assert torch.equal(parameter, before), name


@each
def test_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    case.base().save_pretrained(tmp_path / "base", max_shard_size="10KB")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 1
    model = case.random(type(case.base()).from_pretrained(tmp_path / "base"))
    expected = logits(model, case)
    model.save_pretrained(tmp_path / "adapter")
    weights = {path.name for path in (tmp_path / "adapter").iterdir()} - {"README.md", "adapter_config.json"}
    assert weights == {"adapter_model.safetensors"}
    variants = [{}, {"adapter_name": "other"}, {"low_cpu_mem_usage": True}]
    for options in (*variants, {"is_trainable": True}) if case in LAYERED else variants:
        base = type(case.base()).from_pretrained(tmp_path / "base")
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter", **options)
        assert torch.equal(logits(loaded, case), expected), options
        if case in LAYERED:  # peft leaves the base of a loaded prompt trainable
            assert any(p.requires_grad for p in loaded.parameters()) == ("is_trainable" in options)


@each_layered
def test_several_adapters(case: Case) -> None:
    model = case.random()
    base, first = logits(case.base(), case), logits(model, case)
    config = case.config()
    config.inference_mode = True  # AdaLoRA trains no more than one
    model.add_adapter("second", config)
    assert torch.equal(logits(model, case), first)
    for name, parameter in model.named_parameters():
        if ".second" in name and parameter.is_floating_point():
            assert not parameter.requires_grad
            parameter.data.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view(parameter.shape))
    model.set_adapter("second", inference_mode=True)
    second = logits(model, case)
    assert not torch.equal(second, first) and not torch.equal(second, base)
    with model.disable_adapter():
        assert torch.equal(logits(model, case), base)
    model.set_adapter("default")
    assert torch.equal(logits(model, case), first)
    if config.modules_to_save is None:  # else peft allows no two at a time
        model.base_model.set_adapter(["default", "second"], inference_mode=True)
        both = logits(model, case)
        assert not torch.equal(both, first) and not torch.equal(both, second)
        model.set_adapter("default")
    model.delete_adapter("second")
    if not model.base_model.targeted_module_names:  # peft forgets the active adapter where no layer is adapted
        model.set_adapter("default")
    assert not any(".second" in name for name, _ in model.named_parameters())
    assert torch.equal(logits(model, case), first)


@each_layered
def test_merging(case: Case) -> None:
    alone = case not in OURS  # IA3 fails to merge beside a projector
    model = case.random(alone=alone)
    expected = logits(model, case)
    if not case.can_merge():
        layer = next(module for module in model.modules() if isinstance(module, LowRankLinear))
        for merge in (model.merge_and_unload, model.merge_adapter, layer.merge):
            with pytest.raises(NotImplementedError, match=r"depends on the input.*unload\(\)"):
                merge()
        assert torch.equal(logits(model, case), expected)
        return
    close = {"rtol": 1e-4, "atol": 1e-5}
    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    assert merged.state_dict().keys() == case.base().state_dict().keys()
    torch.testing.assert_close(logits(merged, case), expected, **close)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, case), expected, **close)
    with warnings.catch_warnings():  # IA3 divides by its scales
        warnings.simplefilter("ignore")
        model.unmerge_adapter()
    torch.testing.assert_close(logits(model, case), expected, **close)


@each_layered
def test_unloading_gives_the_base_back(case: Case) -> None:
    model = case.random(alone=True)
    if case.config(alone=True).modules_to_save is None:  # else peft keeps what was trained
        bare = model.unload()
        assert bare.state_dict().keys() == case.base().state_dict().keys()
        assert torch.equal(logits(bare, case), logits(case.base(), case))


@each
def test_neighbours_and_padding_change_nothing(case: Case) -> None:
    model = case.random().double()
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in case.inputs().items()}
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, 5:] = 0
    alone = {name: value[:1, :5] if value.dim() == 2 else value[:1] for name, value in inputs.items()}
    with torch.no_grad():
        found = model(**inputs, attention_mask=mask).logits[0]
        expected = model(**alone).logits[0]
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-12, atol=1e-12)


@each
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_generation_in_a_batch_equals_single(case: Case) -> None:
    """Left padding; in a LLaVA only the first sequence has a picture."""
    model = case.random()
    inputs = case.inputs()
    ids, mask = inputs["input_ids"].clone(), torch.ones(2, 7, dtype=torch.long)
    ids[1] = torch.tensor([0, 0, 0, 11, 12, 13, 14])
    mask[1, :3] = 0
    pixels = {"pixel_values": inputs["pixel_values"][:1]} if "pixel_values" in inputs else {}
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    together = model.generate(input_ids=ids, attention_mask=mask, **pixels, **options)
    first = model.generate(input_ids=ids[:1], attention_mask=mask[:1], **pixels, **options)
    second = model.generate(input_ids=ids[1:, 3:], attention_mask=mask[1:, 3:], **options)
    assert torch.equal(together[0, -4:], first[0, -4:])
    if case in LAYERED:  # between a prompt and its sequence the padding would stand
        assert torch.equal(together[1, -4:], second[0, -4:])


@each
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(case: Case, reentrant: bool) -> None:
    found = []
    for checkpointed in (False, True):
        model = case.random().train()
        if checkpointed:
            enable_checkpointing(model, reentrant)
        inputs = case.inputs()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        found.append(gradients(model))
    assert found[0] and found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@each
@pytest.mark.parametrize("kind", ["half", "half, autocast", "mixed, autocast"])
def test_half_precision_and_mixed_bases(case: Case, kind: str) -> None:
    """The adapter stays in float32, its gradients too, and outputs are near the float32 model's."""
    base = case.base().bfloat16()
    if "mixed" in kind:
        for module in base.modules():
            if "Norm" in type(module).__name__:
                module.float()
    model = case.random(base).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 or "modules_to_save" in name for name, p in trained.items())
    inputs = case.inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="autocast" in kind):
        output = model(**inputs, labels=inputs["input_ids"])
    output.loss.backward()
    torch.testing.assert_close(output.logits.float(), logits(case.random(), case), rtol=0.1, atol=0.1)
    assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in trained.values())


@each
def test_a_copy_is_independent(case: Case) -> None:
    model = case.random()
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, case), logits(model, case))
    twin.train()(**case.inputs(), labels=case.inputs()["input_ids"]).loss.backward()
    assert gradients(twin) and not gradients(model)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("case", [case for case in OURS if case.model == "llama"], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_without_breaks(case: Case, autocast: bool) -> None:
    """One MLP block, forward and backward, in one graph."""
    torch._dynamo.reset()
    mlp = next(module for module in case.random().eval().modules() if isinstance(module, LlamaMLP))
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    found = []
    for function in (mlp, compiled):
        mlp.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = function(x)
        y.float().square().sum().backward()
        found.append({"y": y.detach(), **gradients(mlp)})
    assert found[0].keys() == found[1].keys() and len(found[0]) >= 7
    for name, value in found[0].items():
        # In bfloat16 both round, each at other places.
        assert (found[1][name] - value).norm() <= (0.05 if autocast else 1e-5) * value.norm(), name


@each_of_ours
def test_native_interface(case: Case, tmp_path: Path) -> None:
    """transformers' own load_adapter, add_adapter, set_adapter, disable, save_pretrained and delete_adapter."""
    random = case.random(alone=True)
    random.save_pretrained(tmp_path)
    expected, plain = logits(random, case), logits(case.base(), case)
    model = case.base()
    model.load_adapter(tmp_path, adapter_name="loaded")
    assert torch.equal(logits(model, case), expected)
    with pytest.warns(UserWarning, match="multiple adapters"):
        model.add_adapter(case.config(alone=True), adapter_name="fresh")
    assert torch.equal(logits(model, case), plain)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(".fresh." in name for name in trained)
    model.set_adapter("loaded")
    model.disable_adapters()
    assert torch.equal(logits(model, case), plain)
    model.enable_adapters()
    assert torch.equal(logits(model, case), expected)
    model.save_pretrained(tmp_path / "again")
    again = case.base()
    again.load_adapter(tmp_path / "again")
    assert torch.equal(logits(again, case), expected)
    with pytest.warns(UserWarning, match="Setting active adapter to fresh"):
        model.delete_adapter("loaded")
    model.delete_adapter("fresh")
    assert torch.equal(logits(model, case), plain)


def test_fresh_process(tmp_path: Path) -> None:
    """All methods, saved here and loaded by a process that was told nothing but the folders."""
    expected = {}
    for case in CASES:
        case.base().save_pretrained(tmp_path / case.model)
        torch.save(case.inputs(), tmp_path / f"{case.model}.pt")
        model = case.random(alone=case in OURS)  # older transformers' own loading leaves modules_to_save out
        model.save_pretrained(tmp_path / str(case))
        expected[str(case)] = logits(model, case)
    listed = [(str(case), case.model, case in OURS) for case in CASES]
    (tmp_path / "cases.json").write_text(json.dumps(listed))
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fresh_worker.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == expected.keys()
    for name, each_way in found.items():
        assert all(torch.equal(one, expected[name]) for one in each_way), name
