"""The memory estimate against what torch really allocates: weights to the byte, a step's peak within a few percent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPVisionConfig, LlamaConfig

from llava_teamlora.machine import DeviceMemory
from llava_teamlora.models.build import load_base
from llava_teamlora.models.llava import LlavaForConditionalGeneration
from llava_teamlora.training.adapt import adapt
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.training.outlook import memory, rehearsal
from llava_teamlora.training.outlook.estimate import Setup, Sharding, weight_rows
from llava_teamlora.training.outlook.memory import Estimate, estimate_memory, setup_of, show_estimate
from llava_teamlora.training.outlook.plan import count_steps, outline_run
from llava_teamlora.training.outlook.rehearsal import BatchShape, Rehearsal
from llava_teamlora.tuners import METHODS, AdapterOptions

BATCH = BatchShape(2, 192, 2, (3, 64, 64))


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def arguments_of(tiny: str, *extra: str) -> Any:
    flags = ["--model_name_or_path", tiny, "--data_path", "d.json", "--output_dir", "o", "--use_cpu", "True"]
    return parse_arguments([*flags, *extra])


def by_name(rows: Any) -> dict[str, int]:
    return {row.name: row.size_bytes for row in rows}


@pytest.mark.parametrize("method", ["teamlora", "lora", "adalora", "ia3", "prompt_tuning", "projector", "full"])
def test_weights_gradients_and_states_are_those_of_a_real_model(method: str, tiny: str) -> None:
    arguments = arguments_of(tiny, "--method", method, "--bf16", "True")
    rows = by_name(weight_rows(outline_run(arguments, torch.bfloat16).model, setup_of(arguments, BATCH)))
    model = adapt(load_base(arguments.model.base(), torch.bfloat16), arguments)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert rows["frozen weights"] == size([*frozen, *model.buffers()])
    assert rows["trained weights"] == size(trained)
    assert rows["their gradients"] == size(p.grad for p in trained)
    assert rows["optimizer states"] == size(t for state in optimizer.state.values() for t in state.values())


def test_quantised_weights_are_counted_as_bitsandbytes_packs_them(tiny: str) -> None:
    pytest.importorskip("bitsandbytes")
    for flags in (["--bits", "4"], ["--bits", "4", "--double_quant", "False"], ["--bits", "8"]):
        arguments = arguments_of(tiny, *flags)
        rows = by_name(weight_rows(outline_run(arguments, torch.float32).model, setup_of(arguments, BATCH)))
        model = adapt(load_base(arguments.model.base(), torch.float32), arguments)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        states = [p.quant_state for p in frozen if getattr(p, "quant_state", None) is not None]
        scales = [scale for state in states for scale in (state.absmax, getattr(state.state2, "absmax", None))]
        rest = [getattr(p, "SCB", None) for p in frozen]
        packed = size(t for t in [*frozen, *model.buffers(), *scales, *rest] if t is not None)
        assert len(states) == (28 if flags[1] == "4" else 0)  # seven linears in each of four layers
        assert rows["frozen weights"] == packed, flags


def test_zero_divides_what_each_stage_divides(tiny: str) -> None:
    arguments = arguments_of(tiny)
    model = outline_run(arguments, torch.bfloat16).model
    trained = [p for p in model.parameters() if p.requires_grad]
    count, frozen = sum(p.numel() for p in trained), [p for p in model.parameters() if not p.requires_grad]
    setup = Setup(BATCH, torch.bfloat16, processes=4)
    found = {}
    for stage in (0, 1, 2, 3):
        found[stage] = by_name(weight_rows(model, replace(setup, sharding=Sharding(stage))))
        rows = found[stage]
        assert rows["trained weights"] == pytest.approx(2 * count / (4 if stage == 3 else 1), rel=1e-3)
        assert rows["their gradients"] == pytest.approx(2 * count / (4 if stage >= 2 else 1), rel=1e-3)
        assert rows["optimizer states"] == pytest.approx(16 * count / (4 if stage >= 1 else 1), rel=1e-3)
        whole = size(frozen) / (4 if stage == 3 else 1)
        assert rows["frozen weights"] == pytest.approx(whole + size(model.buffers()), rel=1e-3)
        assert ("gathered weights" in rows) == (stage == 3)
    without = by_name(weight_rows(model, setup))
    assert without["gradient buckets"] == without["their gradients"] == 4 * count
    away = weight_rows(model, replace(setup, sharding=Sharding(3, True, True, True)))
    assert [row.size_bytes for row in away if row.name != "gathered weights"] == [0] * 4
    assert [row.host_bytes for row in away[:4]] == [found[3][row.name] for row in away[:4]]


def llava(method: str, layers: int, vocabulary: int, dtype: torch.dtype, device: str) -> Any:
    """A LLaVA wide enough for kernels' workspaces not to matter, with a method on it."""
    from peft import get_peft_model
    from transformers import LlavaConfig

    text = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=layers, num_attention_heads=8, vocab_size=vocabulary
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=8
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=vocabulary - 1)
    torch.manual_seed(0)
    with torch.device(device):
        base = LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
        options = AdapterOptions(r=8 if method == "teamlora" else 32, modules_to_save=("multi_modal_projector",))
        build = METHODS[method].build(options, "llava")
        assert build is not None
        build.task_type = "CAUSAL_LM"
        model = get_peft_model(base, build)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def allocated_peak(model: Any, autocast: torch.dtype | None, checkpointing: bool) -> int:
    """Most bytes that torch's allocator had handed out during one real step, gradients being there already."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    image = model.get_base_model().config.image_token_id
    ids = torch.randint(0, image, (BATCH.samples, BATCH.tokens))
    ids[:, 1:65] = image
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    pixels = torch.zeros(BATCH.pictures, *BATCH.picture)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            inputs = {"input_ids": ids, "labels": ids.clone(), "attention_mask": mask, "pixel_values": pixels}
            outputs = model(**inputs, use_cache=False)
            outputs.logits = outputs.logits.float()
            loss = outputs.loss
            del outputs
        loss.backward()
    live = peak = 0
    for event in found.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["teamlora", "lora"])
def test_the_rehearsed_peak_is_what_torch_allocates(method: str, dtype: torch.dtype, checkpointing: bool) -> None:
    autocast = None if dtype == torch.float32 else dtype
    real = allocated_peak(llava(method, 5, 1000, dtype, "cpu"), autocast, checkpointing)
    # Five layers: the estimate rehearses two and three and goes on from there.
    outlined = Rehearsal(llava(method, 5, 1000, dtype, "meta"))
    assert outlined.peak_bytes(BATCH, autocast=autocast, checkpointing=checkpointing) == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize(("vocabulary", "checkpointing"), [(50, False), (50, True), (8000, True)])
def test_few_layers_tell_what_many_need(vocabulary: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak() -> int:  # in a layer, or with many words in the loss
        model = llava("teamlora", 4, vocabulary, torch.float32, "meta")
        return Rehearsal(model).peak_bytes(BATCH, checkpointing=checkpointing)

    found = peak()
    monkeypatch.setattr(rehearsal, "_FEW", 4)  # all of them
    assert peak() == found


def estimate(monkeypatch: pytest.MonkeyPatch, total: int, **setup: Any) -> Estimate:
    monkeypatch.setattr(memory, "host_memory", lambda: DeviceMemory("host memory", total))
    model = llava("teamlora", 4, 1000, torch.float32, "meta")
    return estimate_memory(model, Setup(BatchShape(8, 192, 8, (3, 64, 64)), torch.float32, **setup))


def test_a_run_that_does_not_fit_is_told_what_helps_cheapest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LIBRARIES", {"cpu": 0})
    roomy = estimate(monkeypatch, 2**40)
    assert roomy.fits and roomy.complete and not roomy.remedies
    assert roomy.total_bytes == sum(row.size_bytes or 0 for row in roomy.rows)
    tight = estimate(monkeypatch, roomy.total_bytes // 4)
    assert not tight.fits
    first, second, *_ = tight.remedies
    assert "--gradient_checkpointing True" in first and "--per_device_train_batch_size" in second
    # The advice is right: the batch it names fits, twice that does not.
    batch = int(second.split()[1])
    for samples, fits in ((batch, True), (2 * batch, False)):
        shape = BatchShape(samples, 192, samples, (3, 64, 64))
        monkeypatch.setattr(memory, "host_memory", lambda: tight.device)
        model = llava("teamlora", 4, 1000, torch.float32, "meta")
        assert estimate_memory(model, Setup(shape, torch.float32, checkpointing=True)).fits == fits
    console = Console(record=True, width=120)
    show_estimate(console, tight)
    assert "will probably not fit" in console.export_text()


def test_a_rehearsal_that_fails_costs_its_row_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> int:
        raise NotImplementedError("no fake kernel for this")

    monkeypatch.setattr(Rehearsal, "peak_bytes", fails)
    found = estimate(monkeypatch, 1)
    assert not found.complete and not found.remedies
    assert any("no fake kernel" in row.note for row in found.rows)


def test_steps_are_counted_as_the_trainer_counts_them(tiny: str) -> None:
    arguments = arguments_of(tiny, "--per_device_train_batch_size", "4")
    steps = count_steps(arguments, 25)
    assert (steps.per_epoch, steps.total, steps.warmup, steps.batch) == (7, 7, 1, 4)
    flags = ["--gradient_accumulation_steps", "2", "--num_train_epochs", "25", "--warmup_steps", "0.1"]
    steps = count_steps(arguments_of(tiny, "--per_device_train_batch_size", "4", *flags), 25)
    assert (steps.per_epoch, steps.total, steps.warmup, steps.batch) == (4, 100, 10, 8)
    assert count_steps(arguments_of(tiny, "--max_steps", "3"), 25).total == 3
