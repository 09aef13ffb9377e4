"""One training step on tensors without content: how many bytes are alive at its worst moment.

In: a model on the meta device and the shape of a batch. Out: bytes. torch's fake tensors have shapes, dtypes, storages
and an autograd graph, but no memory, so the model's own code runs, forward and backward, and every storage is counted
from the operation that makes it to its release. Nothing is fitted: what a new method, dtype or checkpointing keeps is
counted because it is kept. Kernels' inner workspaces and the allocator's gaps cannot be seen.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

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

    def peak_bytes(self, batch: BatchShape, *, autocast: torch.dtype | None = None, checkpointing: bool = False) -> int:
        """Rehearse a step and return the most bytes alive at once beside weights and gradients.

        Gradients are there before the step, as in every step but the first of those that are accumulated.

        Args:
            batch: its shape.
            autocast: dtype the Trainer computes in; None when it does not autocast.
            checkpointing: recompute each layer in the backward pass (``--gradient_checkpointing``).
        """
        if checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
            self._model.enable_input_require_grads()
        elif self._model.is_gradient_checkpointing:
            self._model.gradient_checkpointing_disable()
        self._model.train()
        parent, name, layers = _layers(self._model)
        if len(layers) <= _FEW + 1:
            return self._run(batch, autocast)
        few, one_more = (self._run_with(parent, name, layers, count, batch, autocast) for count in (_FEW, _FEW + 1))
        return one_more + (len(layers) - _FEW - 1) * (one_more - few)

    def _run_with(
        self, parent: Any, name: str, layers: nn.ModuleList, count: int, batch: BatchShape, autocast: torch.dtype | None
    ) -> int:
        """A step's peak with the first `count` layers alone."""
        setattr(parent, name, layers[:count])
        try:
            return self._run(batch, autocast)
        finally:
            setattr(parent, name, layers)

    def _run(self, batch: BatchShape, autocast: torch.dtype | None) -> int:
        count = _LiveBytes(self._held)
        computing = torch.autocast(_DEVICE, autocast) if autocast is not None else nullcontext()
        with _without_checks(), self._mode, count:
            inputs = _inputs(batch, self._masked)
            with computing:
                loss = _loss(self._model, inputs)
            loss.backward()
        return count.peak


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


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are released.

    Args:
        known: tensors that are there already and are not counted.

    Attributes:
        peak: most bytes alive at once so far.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._seen: dict[int, weakref.ref] = {}
        for tensor in known:
            self._note(tensor, counted=False)

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation, also those of autograd."""
        result = func(*args, **(kwargs or {}))
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
