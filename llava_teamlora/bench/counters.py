"""What a forward and backward pass asks of any machine: FLOPs, bytes kept for the backward pass, kernels launched.

In: a module and its input, on the meta device too, where nothing is computed and any size fits. Out: exact counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_WRITES_NOTHING = frozenset(
    f"aten::{name}" for name in ("_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "new_empty")
)


@dataclass(frozen=True)
class Counts:
    """Of one forward and backward pass.

    Attributes:
        flops: of matrix products, two for each multiplication with its addition.
        saved_bytes: kept between the passes: every storage once, the input too, parameters not.
        kernels: aten operations that write a tensor.
    """

    flops: int
    saved_bytes: int
    kernels: int


def count(module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor, leaves: Sequence[Tensor]) -> Counts:
    """Count one forward pass and the gradients of the leaves.

    Args:
        module: whose parameters don't count as saved.
        run: calls it.
        x: its input.
        leaves: to take gradients of.
    """
    saved, operations = _Saved(module), _Operations()
    with operations:
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept):
            y = run(x)
        torch.autograd.grad(y, leaves, torch.empty_like(y))
    return Counts(operations.flops, saved.total(), operations.writing)


class _Saved:
    """Storages kept for the backward pass."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        self._kept: dict[int, Tensor] = {}  # tensors, so that no storage's address is used again

    def pack(self, tensor: Tensor) -> Tensor:
        """Called for each tensor that is kept."""
        address = tensor.untyped_storage()._cdata
        if address not in self._parameters:
            self._kept[address] = tensor
        return tensor

    def total(self) -> int:
        """Bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


class _Operations(TorchDispatchMode):
    """Counts operations that write, and their FLOPs by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.writing += not func.is_view and func._schema.name not in _WRITES_NOTHING
        # Of an in-place product torch has no formula: it is that of the product itself.
        packet = torch.ops.aten.addmm if func is torch.ops.aten.addmm_.default else func.overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        return result
