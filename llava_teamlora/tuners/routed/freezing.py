"""Experts that stay as they are while the others train.

In: a model with a routed adapter and the optimizer that trains it. Out: a handle; until it is removed, the experts'
slices of A and B do not change by a bit.

All experts of a layer lie in one A and one B, so neither ``requires_grad`` nor a parameter group can hold one expert
back. Two hooks do. On the gradient: it is zero in the slice, so that it counts neither in the clipping norm nor in a
moment. After each optimizer step: the slice gets its values back, for weight decay and momentum move a weight whose
gradient is zero, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava_teamlora.tuners.routed.layer import routed_layers
from llava_teamlora.tuners.routed.surgery import expert_slice


@dataclass(frozen=True)
class FrozenExperts:
    """What holds the experts; :meth:`remove` lets them train again.

    Args:
        handles: of the hooks.
    """

    handles: list[Any]

    def remove(self) -> None:
        """Take the hooks away; a second call does nothing."""
        while self.handles:
            self.handles.pop().remove()


def freeze_experts(
    model: nn.Module, experts: Sequence[int], optimizer: torch.optim.Optimizer, adapter: str = "default"
) -> FrozenExperts:
    """Hold experts at the weights they have now, in every routed layer.

    The router and M go on learning how much each expert takes part. In HydraLoRA only B is an expert's own: the A that
    all share goes on training, and with it what a frozen expert computes.

    Args:
        model: with a routed adapter that is trained.
        experts: their numbers, counted from 0.
        optimizer: the one that steps; a wrapper such as accelerate's will do.
        adapter: name of the adapter.

    Returns:
        A handle to let them train again.

    Raises:
        ValueError: if there is no such adapter or expert, or the optimizer does not hold the weights themselves, as
            when DeepSpeed or FSDP has split or flattened them.
    """
    held = _slices(model, experts, adapter)
    while hasattr(optimizer, "optimizer"):  # accelerate's wrapper
        optimizer = optimizer.optimizer  # pyright: ignore[reportAttributeAccessIssue]
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(weight) not in stepped for weight, _, _ in held):
        raise ValueError(
            "the optimizer does not hold the experts' weights themselves, so their slices cannot be kept: make the "
            "optimizer from the parameters of this model; DeepSpeed's ZeRO and FSDP, which split or flatten them, are "
            "not supported"
        )
    handles: list[Any] = [weight.register_hook(_zero(dim, owned)) for weight, dim, owned in held]
    kept = [(weight, dim, owned, weight.detach().index_select(dim, owned)) for weight, dim, owned in held]

    @torch.no_grad()
    def restore(*_: Any) -> None:
        """Put the slices' values back."""
        for weight, dim, owned, values in kept:
            weight.index_copy_(dim, owned, values)

    return FrozenExperts([*handles, optimizer.register_step_post_hook(restore)])


def _slices(model: nn.Module, experts: Sequence[int], adapter: str) -> list[tuple[nn.Parameter, int, Tensor]]:
    """The trained weights with the experts' rows (dim 0, A) or columns (dim 1, B)."""
    layers = [layer for layer in routed_layers(model) if adapter in layer.adapter_configs]
    if not layers:
        raise ValueError(f"the model has no routed adapter called {adapter!r}")
    found = []
    for layer in layers:
        config = layer.adapter_configs[adapter]
        if not experts or not all(0 <= expert < config.num_experts for expert in experts):
            raise ValueError(f"experts={list(experts)}: this adapter has experts 0 to {config.num_experts - 1}")
        numbers = [torch.arange(config.r * config.num_experts)[expert_slice(e, config.r)] for e in sorted(set(experts))]
        for name, dim in (("A", 0), ("B", 1)):
            weight = layer.linear(name, adapter).weight
            if weight.requires_grad and not (name == "A" and layer.shared_down_projection):
                found.append((weight, dim, torch.cat(numbers).to(weight.device)))
    return found


def _zero(dim: int, owned: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.index_fill(dim, owned, 0.0)
