"""The table of a run's memory, printed before it begins, and what to change when it will not fit.

In: the run's arguments, its model on the meta device, the shape of its largest batch. Out: an :class:`Estimate` and
its table. Per process, at the worst moment of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from llava_teamlora.machine import DeviceMemory, gpu_memory, host_memory
from llava_teamlora.training.flags.arguments import Arguments, TrainingArguments
from llava_teamlora.training.outlook.checkpointing import Advice
from llava_teamlora.training.outlook.estimate import (
    GIB,
    LIBRARIES,
    Row,
    Setup,
    Sharding,
    quantised_linears,
    weight_rows,
)
from llava_teamlora.training.outlook.rehearsal import BatchShape, Rehearsal, Rehearsed
from llava_teamlora.tuners.routed.layer import set_impl

TIGHT = 0.92
"""Share of a device's memory that is safely used: the allocator loses some to gaps."""


@dataclass(frozen=True)
class Estimate:
    """What a process needs.

    Attributes:
        setup: for which it holds.
        rows: what for.
        device: where; None where its memory is not known.
        remedies: what to change, the easiest first, when it does not fit.
        operations: floating point operations of a forward and backward pass; None where they could not be found.
        advice: on gradient checkpointing; None where it cannot be given.
    """

    setup: Setup
    rows: tuple[Row, ...]
    device: DeviceMemory | None
    remedies: tuple[str, ...] = ()
    operations: int | None = None
    advice: Advice | None = None

    @property
    def activation_bytes(self) -> int:
        """What a step keeps and computes in between; 0 where it could not be found."""
        return next(row.size_bytes or 0 for row in self.rows if row.name == "activations")

    @property
    def total_bytes(self) -> int:
        """Sum of the rows on the device."""
        return sum(row.size_bytes or 0 for row in self.rows)

    @property
    def complete(self) -> bool:
        """Whether every row could be found."""
        return all(row.size_bytes is not None for row in self.rows)

    @property
    def fits(self) -> bool:
        """False where the device is known to be too small."""
        return self.device is None or self.total_bytes <= TIGHT * self.device.total_bytes

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        setup = {**asdict(self.setup), "dtype": str(self.setup.dtype).removeprefix("torch.")}
        return {
            "setup": setup,
            "rows": [asdict(row) for row in self.rows],
            "total_bytes": self.total_bytes,
            "complete": self.complete,
            "device": asdict(self.device) if self.device else None,
            "fits": self.fits,
            "remedies": list(self.remedies),
            "operations": self.operations,
            "gradient_checkpointing": asdict(self.advice) if self.advice else None,
        }


def setup_of(arguments: Arguments, batch: BatchShape) -> Setup:
    """What the arguments say that decides memory."""
    training = arguments.training
    return Setup(
        batch=batch,
        dtype=torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32,
        device="cuda" if training.n_gpu else "cpu",
        checkpointing=bool(training.gradient_checkpointing),
        processes=training.world_size,
        sharding=_sharding(training),
        optimizer=str(getattr(training.optim, "value", training.optim)),
        bits=arguments.model.bits,
        double_quant=arguments.model.double_quant,
    )


def _sharding(training: TrainingArguments) -> Sharding | None:
    deepspeed = getattr(training, "hf_deepspeed_config", None)
    if deepspeed is not None:
        zero = deepspeed.config.get("zero_optimization", {})
        optimizer, parameters = (_is_away(zero.get(f"offload_{part}")) for part in ("optimizer", "param"))
        return Sharding(int(zero.get("stage", 0)), True, optimizer, parameters)
    if training.fsdp:
        words = str(training.fsdp)
        away = "offload" in words
        return Sharding(2 if "shard_grad_op" in words else 3, False, away, away)
    return None


def _is_away(offload: dict[str, Any] | None) -> bool:
    """Whether DeepSpeed's ``offload_optimizer`` or ``offload_param`` moves something."""
    return bool(offload) and offload.get("device", "none") not in (None, "none")


def estimate_memory(model: PeftModel | PreTrainedModel, setup: Setup) -> Estimate:
    """Estimate what a process needs.

    Args:
        model: on the meta device, as the trainer's code made it. It is used up.
        setup: how it is trained.
    """
    weights = weight_rows(model, setup)
    _withhold_forms(model, setup)
    peaks = _Peaks(model, setup.trained_dtype)
    estimate = _estimate(weights, peaks, setup)
    if not estimate.complete:
        return estimate
    other = _again(estimate, replace(setup, checkpointing=not setup.checkpointing), peaks)
    on, off = (estimate, other) if setup.checkpointing else (other, estimate)
    remedies = () if estimate.fits else tuple(_remedies(estimate, model, peaks))
    return replace(estimate, remedies=remedies, advice=_advice(on, off) if other.complete else None)


def _withhold_forms(model: PeftModel | PreTrainedModel, setup: Setup) -> None:
    """Keep the rehearsal, whose weights are plain, from forms that the run's will not allow (see choice.py)."""
    if setup.sharding is not None and setup.sharding.deepspeed and setup.sharding.stage >= 3:
        set_impl(model, "reference")
    elif setup.bits < 16:
        for name in quantised_linears(model):  # are called as modules, as what has a hook is
            model.get_submodule(name.removesuffix(".weight")).register_forward_hook(lambda *_: None)


def _advice(on: Estimate, off: Estimate) -> Advice:
    """From the estimates with and without checkpointing."""
    smaller = _smaller(off) if on.fits and not off.fits else None
    return Advice(
        on_bytes=on.total_bytes,
        off_bytes=off.total_bytes,
        off_activation_bytes=off.activation_bytes,
        work=(off.operations or 0) / max(on.operations or 0, 1),
        on_fits=on.fits,
        off_fits=off.fits,
        off_batch=smaller,
        batch=off.setup.batch.samples,
        device=off.device,
    )


class _Peaks:
    """Rehearsed peaks of one model, in several setups; failures are kept as a reason."""

    def __init__(self, model: PeftModel | PreTrainedModel, trained_dtype: torch.dtype) -> None:
        self._model = model
        self._trained_dtype = trained_dtype
        self._rehearsal: Rehearsal | None = None
        self._found: dict[Setup, Rehearsed] = {}
        self.reason = ""

    def find(self, setup: Setup) -> Rehearsed | None:
        """Peak and operations of a step; None when the rehearsal fails, and `reason` says why."""
        try:
            self._rehearsal = self._rehearsal or Rehearsal(self._model, self._trained_dtype)
            if setup not in self._found:
                self._found[setup] = self._rehearsal.step(
                    setup.batch, autocast=setup.autocast, checkpointing=setup.checkpointing
                )
            return self._found[setup]
        except Exception as error:  # a model's code may want content; no reason not to train
            self.reason = " ".join(str(error).split())[:80] or type(error).__name__
            return None


def _estimate(weights: list[Row], peaks: _Peaks, setup: Setup) -> Estimate:
    batch = setup.batch
    step = peaks.find(setup)
    note = f"{batch.samples} x {batch.tokens:,} tokens, {batch.pictures} pictures"
    note += ", gradient checkpointing" if setup.checkpointing else ", no gradient checkpointing"
    what = "CUDA and its libraries" if setup.device == "cuda" else "Python and libraries"
    rows = (
        *weights,
        Row("activations", note if step else f"not known: {peaks.reason}", step.peak_bytes if step else None),
        Row("libraries", f"{what} (assumed)", LIBRARIES[setup.device]),
    )
    return Estimate(setup, rows, _device(setup), operations=step.operations if step else None)


def _device(setup: Setup) -> DeviceMemory | None:
    if setup.device == "cuda":
        return gpu_memory()
    host = host_memory()
    if host is None or setup.processes == 1:
        return host
    return DeviceMemory(f"host memory, shared by {setup.processes}", host.total_bytes // setup.processes)


def _remedies(estimate: Estimate, model: PeftModel | PreTrainedModel, peaks: _Peaks) -> list[str]:
    """What to change, in the order of what it costs; each goes with those before it."""
    setup = estimate.setup
    found: list[str] = []
    if not setup.checkpointing:
        setup = replace(setup, checkpointing=True)
        estimate = _again(estimate, setup, peaks)
        found.append(f"--gradient_checkpointing True ({_gib(estimate.total_bytes)} GiB then, but slower)")
    if setup.batch.samples > 1 and not estimate.fits and (batch := _smaller(estimate)):
        times = -(-setup.batch.samples // batch)
        found.append(f"--per_device_train_batch_size {batch} and {times} times the --gradient_accumulation_steps")
    if setup.device == "cuda" and setup.processes > 1 and setup.ways(3) == 1 and setup.bits == 16:
        found.append("--deepspeed scripts/zero3.json, which divides the weights over the GPUs")
    if setup.bits > 4 and setup.ways(3) == 1:
        saved = _frozen(estimate.rows) - _frozen(weight_rows(model, replace(setup, bits=4)))
        found += [f"--bits 4 (saves {_gib(saved)} GiB)"] if saved > 0 else []  # full fine-tuning has nothing to pack
    if setup.sharding is not None and setup.sharding.deepspeed and not setup.sharding.parameter_offload:
        found.append("--deepspeed scripts/zero3_offload.json, which keeps the weights in host memory")
    found.append(f"a shorter --model_max_length than {setup.batch.tokens}")
    return found


def _again(estimate: Estimate, setup: Setup, peaks: _Peaks) -> Estimate:
    weights = [row for row in estimate.rows if row.name not in ("activations", "libraries")]
    return _estimate(weights, peaks, setup)


def _frozen(rows: Sequence[Row]) -> int:
    return next(row.size_bytes or 0 for row in rows if row.name == "frozen weights")


def _smaller(estimate: Estimate) -> int | None:
    """The largest power of two that fits as a batch; activations grow with it in proportion."""
    assert estimate.device is not None
    peak = estimate.activation_bytes
    room = TIGHT * estimate.device.total_bytes - (estimate.total_bytes - peak)
    sample = peak / estimate.setup.batch.samples
    sizes = (1, 2, 4, 8, 16, 32, 64)
    return max((n for n in sizes if n < estimate.setup.batch.samples and n * sample <= room), default=None)


def show_estimate(console: Console, estimate: Estimate) -> None:
    """Print the table, and a warning with remedies where it will not fit."""
    title = "Memory at the peak of a step, estimated"
    title += f", each of {estimate.setup.processes} processes" if estimate.setup.processes > 1 else ""
    table = Table("memory", "GiB", "of", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for row in estimate.rows:
        table.add_row(row.name, "?" if row.size_bytes is None else _gib(row.size_bytes), row.note)
    host = sum(row.host_bytes for row in estimate.rows)
    if host:
        table.add_row("in host memory", _gib(host), "a process; pinned")
    table.add_section()
    device = estimate.device
    there = f"{device.name}: {_gib(device.total_bytes)} GiB" if device else "memory of the device not known"
    table.add_row("sum", ("" if estimate.complete else "> ") + _gib(estimate.total_bytes), there)
    console.print(table)
    if not estimate.fits:
        console.print(
            "warning: this will probably not fit. What helps, the cheapest first: " + "; ".join(estimate.remedies),
            style="yellow",
        )
    if estimate.advice is not None and (said := estimate.advice.say(estimate.setup.checkpointing)):
        console.print(said, markup=False)


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"
