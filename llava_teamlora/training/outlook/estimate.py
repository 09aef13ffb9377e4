"""How much memory a process of a run needs, said before anything is loaded.

In: the model on the meta device, made by the trainer's own code, and what decides how it is kept. Out: rows of bytes.
Weights, gradients and optimizer states are counted tensor by tensor; what a step keeps and computes in between is
rehearsed (``rehearsal.py``). An estimate warns and advises; it never refuses a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_teamlora.models.quantise import NOT_THE_LANGUAGE_MODEL
from llava_teamlora.training.outlook.rehearsal import BatchShape

GIB = 2**30

LIBRARIES = {"cuda": round(0.75 * GIB), "cpu": round(0.75 * GIB)}
"""Assumed, not counted: CUDA's context and its libraries' workspaces; on a CPU Python, torch and transformers."""

_STATES = {
    "adamw_torch": 2.0, "adamw_torch_fused": 2.0, "adamw_torch_xla": 2.0, "adamw_anyprecision": 2.0, "adamw_bnb": 2.0,
    "paged_adamw_32bit": 2.0, "adamw_8bit": 0.5, "adamw_bnb_8bit": 0.5, "paged_adamw_8bit": 0.5, "lion_32bit": 1.0,
    "lion_8bit": 0.25, "adagrad": 1.0, "rmsprop": 1.0, "sgd": 0.0,
}  # fmt: skip
"""Optimizer (``--optim``) -> size of its states, in sizes of the weights they belong to: AdamW has two moments."""

_ADAMW = 2.0


@dataclass(frozen=True)
class Sharding:
    """How DeepSpeed or FSDP divides a model over processes.

    Attributes:
        stage: ZeRO's: 1 divides optimizer states, 2 gradients too, 3 weights too; FSDP's full sharding is 3.
        deepspeed: weights are kept in the run's dtype, with float32 copies beside the optimizer's states.
        optimizer_offload: optimizer states are in host memory.
        parameter_offload: weights are in host memory.
    """

    stage: int
    deepspeed: bool = True
    optimizer_offload: bool = False
    parameter_offload: bool = False


@dataclass(frozen=True)
class Setup:
    """What decides a process's memory beside the model.

    Attributes:
        batch: shape of a process's batch.
        dtype: the run's: bfloat16, float16 or float32.
        device: ``cuda`` or ``cpu``.
        checkpointing: ``--gradient_checkpointing``.
        processes: in all.
        sharding: None without DeepSpeed and FSDP.
        optimizer: ``--optim``.
        bits: of the language model's linears: 16 (the run's dtype), 8 or 4.
        double_quant: of 4 bits.
    """

    batch: BatchShape
    dtype: torch.dtype
    device: str = "cpu"
    checkpointing: bool = False
    processes: int = 1
    sharding: Sharding | None = None
    optimizer: str = "adamw_torch_fused"
    bits: int = 16
    double_quant: bool = True

    @property
    def autocast(self) -> torch.dtype | None:
        """What the Trainer autocasts to; DeepSpeed does not autocast."""
        whole = self.dtype == torch.float32 or (self.sharding is not None and self.sharding.deepspeed)
        return None if whole else self.dtype

    @property
    def trained_dtype(self) -> torch.dtype:
        """Dtype of trained weights and their gradients: float32 (``training/adapt.py``), under DeepSpeed the run's."""
        return self.dtype if self.sharding is not None and self.sharding.deepspeed else torch.float32

    def ways(self, stage: int) -> int:
        """Over how many processes something is divided that ZeRO divides from this stage on."""
        return self.processes if self.sharding is not None and self.sharding.stage >= stage else 1


@dataclass(frozen=True)
class Row:
    """One use of memory.

    Attributes:
        name: what for.
        note: of how much it is.
        size_bytes: on the device; None where it could not be found.
        host_bytes: in host memory, offloaded.
    """

    name: str
    note: str
    size_bytes: int | None
    host_bytes: int = 0


def weight_rows(model: PeftModel | PreTrainedModel, setup: Setup) -> list[Row]:
    """Frozen and trained weights, gradients, optimizer states, and what sharding needs beside them.

    Sources. Without DeepSpeed: trained weights and gradients in float32, and torch's AdamW keeps two moments of the
    weight's dtype and a float32 step count a tensor. DeepSpeed: weights and gradients in the run's dtype; master
    weights, two moments and, for the step, gradients in float32, 16 bytes a trained weight
    (``estimate_zero3_model_states_mem_needs`` in its ``stage3.py``, which counts 18 with the weight). What a stage
    divides: Rajbhandari et al., "ZeRO", section 5. DDP's buckets hold all gradients once more.

    Args:
        model: with what trains marked by ``requires_grad``.
        setup: how it is kept.
    """
    named = dict(model.named_parameters())
    trained = {name: p for name, p in named.items() if p.requires_grad}
    frozen = {name: p for name, p in named.items() if not p.requires_grad}
    sharding = setup.sharding
    parameters_away = sharding is not None and sharding.parameter_offload
    states_away = sharding is not None and sharding.optimizer_offload
    packed = quantised_linears(model) if setup.bits < 16 else {}

    frozen_bytes = sum(_shared(_size(p), setup.ways(3)) for name, p in frozen.items() if name not in packed)
    frozen_bytes += sum(_shared(_packed_size(p, setup), setup.ways(3)) for p in packed.values())
    frozen_bytes += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    count = sum(p.numel() for p in trained.values())
    width = setup.trained_dtype.itemsize
    weights = sum(_shared(p.numel() * width, setup.ways(3)) for p in trained.values())
    gradients = sum(_shared(p.numel() * width, setup.ways(2)) for p in trained.values())
    states, states_note = _optimizer(list(trained.values()), setup)
    kept = f"{_name(setup.dtype)}, the language model in {setup.bits} bits" if packed else _name(setup.dtype)
    kept += _divided(setup, 3, ", ")
    rows = [
        _row("frozen weights", f"{sum(p.numel() for p in frozen.values()):,} in {kept}", frozen_bytes, parameters_away),
        _row("trained weights", f"{count:,} in {_name(setup.trained_dtype)}", weights, parameters_away),
        _row("their gradients", _divided(setup, 2), gradients, states_away),
        _row("optimizer states", states_note, states, states_away),
    ]
    if setup.processes > 1 and sharding is None:
        rows.append(Row("gradient buckets", "DDP sends them from copies", gradients))
    if setup.ways(3) > 1 or parameters_away:
        rows.append(Row("gathered weights", "largest module and its gradient, whole", _largest_module(model, setup)))
    return rows


def quantised_linears(model: nn.Module) -> dict[str, Tensor]:
    """The weights that ``--bits`` packs, by name: linears of the language model (``models/quantise.py``)."""
    found = {f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {
        name: weight
        for name, weight in found.items()
        if not weight.requires_grad and not any(f".{part}." in f".{name}" for part in NOT_THE_LANGUAGE_MODEL)
    }


def _optimizer(trained: list[nn.Parameter], setup: Setup) -> tuple[int, str]:
    """Bytes and words for the optimizer's states."""
    known = setup.optimizer in _STATES
    factor = _STATES.get(setup.optimizer, _ADAMW)
    name = setup.optimizer if known else f"{setup.optimizer} (not known: counted as AdamW)"
    sizes = [p.numel() * torch.float32.itemsize for p in trained]
    if setup.sharding is not None and setup.sharding.deepspeed:
        # Master weights and, for the step, gradients in float32 stand beside the states.
        states = sum(_shared(math.ceil(size * (2 + factor)), setup.ways(1)) for size in sizes)
        return states, f"{name}, master weights{_divided(setup, 1, ', ')}"
    states = sum(_shared(math.ceil(size * factor), setup.ways(1)) for size in sizes)
    steps = torch.float32.itemsize * len(sizes) if setup.optimizer.startswith("adamw_torch") else 0
    return states + steps, f"{name}{_divided(setup, 1, ', ')}"


def _packed_size(weight: Tensor, setup: Setup) -> int:
    """Bytes of a weight quantised by bitsandbytes.

    4 bits: half a byte each, and a scale for every 64, float32 or (``--double_quant``) one byte, which are themselves
    scaled in blocks of 256 by float32 (Dettmers et al., "QLoRA", section 3). 8 bits: a byte each and a float32 scale a
    row (Dettmers et al., "LLM.int8()").
    """
    if setup.bits == 8:
        return weight.numel() + 4 * weight.shape[0]
    blocks = math.ceil(weight.numel() / 64)
    scales = blocks + 4 * math.ceil(blocks / 256) if setup.double_quant else 4 * blocks
    return math.ceil(weight.numel() / 2) + scales


def _largest_module(model: nn.Module, setup: Setup) -> int:
    sizes = (sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
    return 2 * setup.dtype.itemsize * max(sizes, default=0)


def _row(name: str, note: str, size: int, away: bool) -> Row:
    return Row(name, f"{note}, in host memory", 0, size) if away else Row(name, note, size)


def _size(parameter: Any) -> int:
    return parameter.numel() * parameter.element_size()


def _shared(size: int, ways: int) -> int:
    return math.ceil(size / ways)


def _divided(setup: Setup, stage: int, before: str = "") -> str:
    ways = setup.ways(stage)
    return f"{before}a share of {ways}" if ways > 1 else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
