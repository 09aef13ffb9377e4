"""The memory estimate against what torch really allocates: weights to the byte, a step's peak within a few percent."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig

from llava_teamlora.bench.peak import peak_bytes
from llava_teamlora.machine import DeviceMemory
from llava_teamlora.models.build import load_base
from llava_teamlora.models.llava import LlavaForConditionalGeneration
from llava_teamlora.training.adapt import adapt
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.training.outlook import memory, rehearsal
from llava_teamlora.training.outlook.estimate import Setup, Sharding, weight_rows
from llava_teamlora.training.outlook.memory import Estimate, estimate_memory, setup_of, show_estimate
from llava_teamlora.training.outlook.plan import count_steps, outline_run
from llava_teamlora.training.outlook.rehearsal import BatchShape, Rehearsal, Rehearsed
from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.routed.layer import set_impl
from llava_teamlora.tuners.routed.recompute import skip_recomputed_outputs

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


def ready(model: Any, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Make a model ready for a real step, gradients being there already, and return the step's inputs."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        skip_recomputed_outputs(model)
        model.enable_input_require_grads()
    model.train()
    image = model.get_base_model().config.image_token_id
    ids = torch.randint(0, image, (BATCH.samples, BATCH.tokens))
    ids[:, 1:65] = image
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    pixels = torch.zeros(BATCH.pictures, *BATCH.picture)
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": mask, "pixel_values": pixels}


def step(model: Any, inputs: dict[str, torch.Tensor], autocast: torch.dtype | None) -> None:
    """Forward and backward, as the Trainer does them."""
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        outputs = model(**inputs, use_cache=False)
        outputs.logits = outputs.logits.float()
        loss = outputs.loss
        del outputs
    loss.backward()


def allocated_peak(model: Any, autocast: torch.dtype | None, checkpointing: bool) -> int:
    """Most bytes that torch's allocator had handed out during one real step."""
    inputs = ready(model, checkpointing)

    def work() -> None:  # the batch is counted too
        step(model, {name: tensor.clone() for name, tensor in inputs.items()}, autocast)

    return peak_bytes(work, torch.device("cpu"))


@pytest.mark.parametrize(
    ("method", "impl", "dtype", "checkpointing"),
    [
        *product(("teamlora", "lora"), ("auto",), (torch.float32, torch.bfloat16), (False, True)),
        ("teamlora", "linear", torch.bfloat16, False),
        ("teamlora", "reference", torch.bfloat16, False),
    ],
)
def test_the_rehearsed_peak_is_what_torch_allocates(
    method: str, impl: str, dtype: torch.dtype, checkpointing: bool
) -> None:
    autocast = None if dtype == torch.float32 else dtype
    model, outlined = (llava(method, 5, 1000, dtype, device) for device in ("cpu", "meta"))
    if method == "teamlora":
        set_impl(model, impl)
        set_impl(outlined, impl)
    real = allocated_peak(model, autocast, checkpointing)
    # Five layers: the estimate rehearses two and three and goes on from there.
    found = Rehearsal(outlined).step(BATCH, autocast=autocast, checkpointing=checkpointing)
    assert found.peak_bytes == pytest.approx(real, rel=0.03)


def test_each_form_is_rehearsed_as_what_it_is() -> None:
    peaks = []
    for impl in ("auto", "linear", "reference"):
        model = llava("teamlora", 4, 1000, torch.bfloat16, "meta")
        set_impl(model, impl)
        peaks.append(Rehearsal(model).step(BATCH, autocast=torch.bfloat16).peak_bytes)
    # The whole MLP as one keeps least, plain operations most.
    assert peaks[0] < 0.95 * peaks[1] and peaks[1] < 0.95 * peaks[2]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_that_torch_counts_in_a_real_step(checkpointing: bool) -> None:
    real = llava("lora", 4, 1000, torch.float32, "cpu")
    real.set_attn_implementation("eager")  # torch counts no sdpa on a CPU
    inputs = ready(real, checkpointing)
    with FlopCounterMode(display=False) as counter:
        step(real, inputs, None)
    outlined = llava("lora", 4, 1000, torch.float32, "meta")
    outlined.set_attn_implementation("eager")
    assert Rehearsal(outlined).step(BATCH, checkpointing=checkpointing).operations == counter.get_total_flops()


def test_attention_is_counted_whatever_kernel_does_it() -> None:
    found = []
    for kernel in ("sdpa", "eager"):
        model = llava("lora", 4, 1000, torch.float32, "meta")
        model.set_attn_implementation(kernel)
        found.append(Rehearsal(model).step(BATCH).operations)
    # sdpa's backward computes the scores again.
    assert found[1] < found[0] < 1.1 * found[1]


def test_what_was_rehearsed_before_changes_nothing() -> None:
    rehearsal = Rehearsal(llava("teamlora", 4, 1000, torch.float32, "meta"))
    first = [rehearsal.step(BATCH, checkpointing=checkpointing) for checkpointing in (False, True)]
    again = [rehearsal.step(BATCH, checkpointing=checkpointing) for checkpointing in (False, True)]
    assert first == again


@pytest.mark.parametrize(("vocabulary", "checkpointing"), [(50, False), (50, True), (8000, True)])
def test_few_layers_tell_what_many_need(vocabulary: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak() -> Rehearsed:  # in a layer, or with many words in the loss
        model = llava("teamlora", 4, vocabulary, torch.float32, "meta")
        return Rehearsal(model).step(BATCH, checkpointing=checkpointing)

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


def test_forms_that_the_weights_will_not_allow_are_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed, divided = (
        estimate(monkeypatch, 2**40, **setup).activation_bytes
        for setup in ({}, {"bits": 4}, {"sharding": Sharding(3), "processes": 2})
    )
    model = llava("teamlora", 4, 1000, torch.float32, "meta")
    set_impl(model, "reference")
    assert divided == Rehearsal(model).step(BatchShape(8, 192, 8, (3, 64, 64))).peak_bytes
    assert plain < 0.95 * packed and packed < divided


def said(monkeypatch: pytest.MonkeyPatch, total: int, checkpointing: bool) -> tuple[Estimate, str]:
    found = estimate(monkeypatch, total, checkpointing=checkpointing)
    console = Console(record=True, width=400)
    show_estimate(console, found)
    return found, console.export_text()


def test_checkpointing_is_advised_by_what_fits_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LIBRARIES", {"cpu": 0})
    roomy, shown = said(monkeypatch, 2**40, checkpointing=True)
    advice = roomy.advice
    assert advice is not None and not advice.recommended and advice.on_bytes == roomy.total_bytes
    assert advice.off_bytes == estimate(monkeypatch, 2**40).total_bytes > 1.5 * advice.on_bytes
    assert "may be off (--gradient_checkpointing False)" in shown and "of 1,024.0 GiB" in shown
    # A frozen base: forward, again forward without the MLPs' last products, and backward, each about as much.
    assert 0.68 < advice.work < 0.78 and f"has {advice.work:.2f} of the operations" in shown
    assert "may stay off" in said(monkeypatch, 2**40, checkpointing=False)[1]

    between = (advice.on_bytes + advice.off_bytes) // 2
    tight, shown = said(monkeypatch, between, checkpointing=True)
    assert tight.fits and tight.advice is not None and tight.advice.recommended
    assert "must stay on" in shown and "--per_device_train_batch_size 4 and 2 times the --grad" in shown
    assert "must be on (--gradient_checkpointing True)" in said(monkeypatch, between, checkpointing=False)[1]

    none, shown = said(monkeypatch, advice.on_bytes // 4, checkpointing=True)
    assert not none.fits and "gradient checkpointing m" not in shown and "will probably not fit" in shown


def test_on_an_unknown_device_both_figures_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = estimate(monkeypatch, 2**40)
    assert roomy.advice is not None
    nowhere = replace(roomy.advice, device=None)
    assert "GiB with it" in nowhere.say(True) and "GiB without" in nowhere.say(False)
    assert roomy.to_dict()["gradient_checkpointing"]["off_bytes"] == roomy.total_bytes


def test_a_rehearsal_that_fails_costs_its_row_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> int:
        raise NotImplementedError("no fake kernel for this")

    monkeypatch.setattr(Rehearsal, "step", fails)
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
