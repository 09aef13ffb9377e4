"""Whole LLaVAs that differ in their adapters alone, ready to step as a training does.

In: a base of random weights and the names of variants. Out: for each variant two models, with and without gradient
checkpointing, over one and the same frozen base: all of them are in memory at once, so that they can take turns.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from llava_teamlora.bench.parts import Shape
from llava_teamlora.bench.variants import adapt
from llava_teamlora.constants import PROJECTOR
from llava_teamlora.tuners.routed.recompute import skip_recomputed_outputs

FFN = ("gate_proj", "up_proj", "down_proj")
"""What the paper adapts, in each layer of the language model."""

_LEARNING_RATE = 2e-4


def adapted(base: nn.Module, variant: str, shape: Shape, *, wide: bool) -> nn.Module:
    """A model over the base's own frozen weights, with new adapters on its FFNs and a projector of its own to train.

    Args:
        base: a LLaVA; it stays as it is.
        variant: see ``variants.py``.
        shape: of the adapters.
        wide: adapters and projector in float32 on a half-precision base.
    """
    shared = {id(t): t for name, t in base.named_parameters() if PROJECTOR not in name}
    shared |= {id(t): t for t in base.buffers()}
    model: Any = copy.deepcopy(base, shared)
    model.requires_grad_(False)
    adapt(model, variant, ffn_linears(model), shape, wide=wide)
    for name, parameter in model.named_parameters():
        if PROJECTOR in name:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float() if wide else parameter.data
    return model.train()


def ffn_linears(base: nn.Module) -> list[str]:
    """Names of the linears to adapt in a LLaVA that has no adapters."""
    return [name for name, _ in base.named_modules() if "vision" not in name and name.endswith(FFN)]


def checkpointed(model: nn.Module) -> nn.Module:
    """The same model, all weights shared, that recomputes each layer in the backward pass."""
    tensors = [*model.parameters(), *model.buffers()]
    twin: Any = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    twin.gradient_checkpointing_enable({"use_reentrant": False})
    skip_recomputed_outputs(twin)  # as the trainer does; only TeamLoRA's MLPs heed it
    twin.disable_input_require_grads()  # transformers may or may not have set the hooks by now
    twin.enable_input_require_grads()
    return twin


def trained(model: nn.Module) -> list[nn.Parameter]:
    """What trains."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Step:
    """A training step of one model: forward, backward, AdamW.

    Args:
        model: to train.
        optimizer: of what trains in it.
        batch: its input, always the same.
        autocast: dtype to compute in; None for the model's own.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], autocast: torch.dtype | None
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self._batch = batch
        self._autocast = autocast

    def __call__(self) -> None:
        """Step once; gradients are let go."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def resident_bytes(self) -> int:
        """Of weights, buffers and the optimizer's states; what stays between two steps."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = [*self.model.parameters(), *self.model.buffers(), *states]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def backward(self) -> Tensor:
        """Forward and backward alone, gradients added to those that are there; returns the loss."""
        device = self._batch["input_ids"].device.type
        computing = torch.autocast(device, self._autocast) if self._autocast is not None else nullcontext()
        with computing:
            loss = self.model(**self._batch, use_cache=False).loss
        loss.backward()
        return loss.detach()


def step_of(model: nn.Module, batch: dict[str, Tensor], autocast: torch.dtype | None, checkpointing: bool) -> Step:
    """A model's step with checkpointing or without."""
    return steps_of(model, batch, autocast)[checkpointing]


def steps_of(model: nn.Module, batch: dict[str, Tensor], autocast: torch.dtype | None) -> dict[bool, Step]:
    """Steps of one model without checkpointing (False) and with it (True); weights and optimizer are the same."""
    optimizer = torch.optim.AdamW(trained(model), lr=_LEARNING_RATE, fused=True)
    both = {False: model, True: checkpointed(model)}
    return {on: Step(one, optimizer, batch, autocast) for on, one in both.items()}
