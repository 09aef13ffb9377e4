"""One training step on tensors without content: how many bytes are alive at its worst moment, and how much it computes.

In: a model on the meta device and the shape of a batch. Out: bytes and operations. torch's fake tensors have shapes,
dtypes, storages and an autograd graph, but no memory, so the model's own code runs, forward and backward, and every
storage is counted from the operation that makes it to its release. Nothing is fitted: what a new method, a faster form
of one, dtype or checkpointing keeps is counted because it is kept. Kernels' inner workspaces and the allocator's gaps
cannot be seen.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from llava_teamlora.tuners.routed.recompute import skip_recomputed_outputs

_FEW = 2
"""Layers that are rehearsed, and then one more: as layers are alike, each further one adds what that one adds."""

_DEVICE = "cpu"
"""Whatever the run's device: its sdpa keeps what CUDA's memory-efficient kernel keeps: q, k, v, output, log-sum-exp and
the mask in the queries' dtype."""


@dataclass(frozen=True)
class BatchShape:
    """A process's batch.

    Attributes:
        samples: sequences B.
        tokens: tokens T each, pictures expanded.
        pictures: pictures in all.
        picture: shape of one's pixels, ``(3, H, W)``.
    """

    samples: int
    tokens: int
    pictures: int = 0
    picture: tuple[int, ...] = ()


class Rehearsed(NamedTuple):
    """What one step takes.

    Attributes:
        peak_bytes: most bytes alive at once beside weights and gradients.
        operations: floating point operations of matrix products, attention and convolutions, forward and backward.
    """

    peak_bytes: int
    operations: int


class Rehearsal:
    """A model whose steps can be rehearsed.

    Args:
        model: on the meta device, with what trains marked by ``requires_grad``. Its weights become fake tensors.
        trained_dtype: dtype of trained weights and their gradients, where it is not the model's (DeepSpeed).
    """

    def __init__(self, model: PeftModel | PreTrainedModel, trained_dtype: torch.dtype | None = None) -> None:
        self._model = model
        self._masked = model.config._attn_implementation != "flash_attention_2"
        if not self._masked:  # without a mask, sdpa's kernel keeps what FlashAttention-2 keeps
            model.set_attn_implementation("sdpa")
        self._mode = FakeTensorMode()
        self._held = _imagine(model, self._mode, trained_dtype)
        with self._mode:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
                    self._held.append(parameter.grad)

    def step(self, batch: BatchShape, *, autocast: torch.dtype | None = None, checkpointing: bool = False) -> Rehearsed:
        """Rehearse a step.

        Gradients are there before the step, as in every step but the first of those that are accumulated.

        Args:
            batch: its shape.
            autocast: dtype the Trainer computes in; None when it does not autocast.
            checkpointing: recompute each layer in the backward pass (``--gradient_checkpointing``).
        """
        if checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
            skip_recomputed_outputs(self._model)
        elif self._model.is_gradient_checkpointing:
            self._model.gradient_checkpointing_disable()
        # transformers may or may not have set hooks by now, and so did rehearsals before this one.
        self._model.disable_input_require_grads()
        if checkpointing:
            self._model.enable_input_require_grads()
        self._model.train()
        parent, name, layers = _layers(self._model)
        if len(layers) <= _FEW + 1:
            return self._run(batch, autocast)
        few, one_more = (self._run_with(parent, name, layers, count, batch, autocast) for count in (_FEW, _FEW + 1))
        further = len(layers) - _FEW - 1
        return Rehearsed(*(last + further * (last - before) for before, last in zip(few, one_more, strict=True)))

    def _run_with(
        self, parent: Any, name: str, layers: nn.ModuleList, count: int, batch: BatchShape, autocast: torch.dtype | None
    ) -> Rehearsed:
        """A step with the first `count` layers alone."""
        setattr(parent, name, layers[:count])
        try:
            return self._run(batch, autocast)
        finally:
            setattr(parent, name, layers)

    def _run(self, batch: BatchShape, autocast: torch.dtype | None) -> Rehearsed:
        count = _Count(self._held)
        computing = torch.autocast(_DEVICE, autocast) if autocast is not None else nullcontext()
        with _without_checks(), self._mode, count:
            inputs = _inputs(batch, self._masked)
            with computing:
                loss = _loss(self._model, inputs)
            loss.backward()
        return Rehearsed(count.peak, count.operations)


def _layers(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """The longest row of layers that are alike outside the vision tower, and where it is; an empty one if none is."""
    found = [(model, "", nn.ModuleList())]
    for path, parent in model.named_modules():
        for name, child in parent.named_children():
            kinds = {type(layer) for layer in child} if isinstance(child, nn.ModuleList) else set()
            alike = len(kinds) == 1 and issubclass(kinds.pop(), GradientCheckpointingLayer)
            if isinstance(child, nn.ModuleList) and alike and "vision" not in path:
                found.append((parent, name, child))
    return max(found, key=lambda place: len(place[2]))


def _loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The step's loss; logits are in float32 at its end, as accelerate returns them, and then let go."""
    outputs = model(**inputs, use_cache=False)
    outputs.logits = outputs.logits.float()
    return outputs.loss


def _inputs(batch: BatchShape, masked: bool) -> dict[str, Tensor]:
    ids = torch.zeros(batch.samples, batch.tokens, dtype=torch.long, device=_DEVICE)  # [B, T]
    inputs = {"input_ids": ids, "labels": ids.clone()}
    if masked:
        inputs["attention_mask"] = torch.ones_like(ids)
    if batch.pictures:
        inputs["pixel_values"] = torch.zeros(batch.pictures, *batch.picture, device=_DEVICE)
    return inputs


def _imagine(model: nn.Module, mode: FakeTensorMode, trained: torch.dtype | None) -> list[Tensor]:
    """Put fake tensors in the place of a model's parameters and buffers, shared ones shared; return them."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if old not in made:
                    with mode:
                        dtype = trained if trained is not None and old.requires_grad else old.dtype
                        new = torch.empty(old.shape, dtype=dtype, device=_DEVICE)
                        made[old] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                tensors[name] = made[old]  # pyright: ignore[reportArgumentType]
    return list(made.values())


@contextmanager
def _without_checks() -> Iterator[None]:
    """transformers compares the number of ``<image>`` tokens with the features; fake ids have no values."""
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Count(TorchDispatchMode):
    """Counts operations, and the bytes of all storages that they make, until they are released.

    Args:
        known: tensors that are there already and are not counted.

    Attributes:
        peak: most bytes alive at once so far.
        operations: floating point operations so far.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self.operations = 0
        self._live = 0
        self._seen: dict[int, weakref.ref] = {}
        for tensor in known:
            self._note(tensor, counted=False)

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation, also those of autograd."""
        result = func(*args, **(kwargs or {}))
        self.operations += _operations(func, args, kwargs or {}, result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor, counted: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counted else 0
        if key in self._seen:
            return

        def gone(_: weakref.ref) -> None:
            del self._seen[key]
            self._live -= size

        self._seen[key] = weakref.ref(storage, gone)
        self._live += size
        self.peak = max(self.peak, self._live)


def _operations(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Floating point operations of a call, by torch's own formulas; 0 for what has none."""
    # Operations in place, and attention on a CPU, compute what others do that torch has formulas for.
    name = func.overloadpacket.__name__.rstrip("_").replace("_for_cpu", "")
    formula = flop_registry.get(getattr(torch.ops.aten, name, None)) if func.namespace == "aten" else None
    return formula(*args, **kwargs, out_val=result) if formula is not None else 0
