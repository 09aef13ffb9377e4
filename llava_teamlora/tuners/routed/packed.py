"""Adapted linears packed for decoding: base weight, A and router in one matrix, read in one GEMV for a few tokens.

In: adapted linears that read the same input (gate and up of an MLP), or one alone. Out: their outputs, of all of them
at the first one's call; the others fetch theirs. With the rows [W_0 ...; A ...; W_r ...] stacked

    [y | z | logits] = x [W_0; A; W_r]^T        y += h B^T,  h = mix(z, omega),  scale folded into B

a token reads each weight once, in two products, whatever the number of experts. The base weight becomes a view of the
stack, so no weight is held twice but A, W_r and B. Source: TeamLoRA, equations 11 to 13.
Differs from router.py: the logits' product runs in the base weight's dtype, not in float32; so do A and B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_teamlora.kernels import fits, usable
from llava_teamlora.tuners.low_rank.layer import LowRankLinear
from llava_teamlora.tuners.routed.choice import is_forward_mode, tell_once
from llava_teamlora.tuners.routed.gradients import stack_rows, wide_dtype

if TYPE_CHECKING:
    from llava_teamlora.tuners.routed.layer import RoutedLinear

MOST_TOKENS = 64
"""Above it the two products of `fused_linear` are as fast, and need no copy out of the stack's output."""


@dataclass(eq=False)
class Pack:
    """G linears of one D_out and one input, with an adapter each.

    Attributes:
        weight: rows [W_0; A; W_r; zeros] of each, ``[G, n, D_in]``.
        bias: ``[G * n]``, zero but where a linear has one; None where none has.
        up: B of each, scaled by alpha / r, ``[G, k * r, D_out]``: a layout that few tokens read fastest.
        interaction: M of each, transposed, ``[G, k, k]``, wide; None where all are the identity.
        widths: of the n columns, those of output, z, logits and padding.
        r: rank of one expert.
        bases: the linears' base weights, views of `weight`; none once the pack is undone.
        waiting: an input, how often it was written, and the outputs ``[G, N, D_out]`` for the other linears to fetch.
    """

    weight: Tensor
    bias: Tensor | None
    up: Tensor
    interaction: Tensor | None
    widths: tuple[int, int, int, int]
    r: int
    bases: tuple[Tensor, ...]
    waiting: tuple[Tensor, tuple[int, ...], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``[N, D_in]`` to the outputs of all, ``[G, N, D_out]``."""
        count, rows, width = self.weight.shape
        stacked = F.linear(x, self.weight.view(-1, width), self.bias)  # [N, G * n]
        y, z, logits, _ = stacked.view(-1, count, rows).transpose(0, 1).split_with_sizes(self.widths, dim=2)
        return expand(y, z, logits, self.up, self.interaction, self.r)

    def undo(self) -> None:
        """Give each base weight a storage of its own again; no linear is packed here any more."""
        with torch.inference_mode(False), torch.no_grad():
            for base in self.bases:
                base.data = base.detach().clone()
        self.bases, self.waiting = (), None
        self.weight = self.up = self.weight.new_empty(0)  # linears that have yet to notice hold on to their places


def expand(y: Tensor, z: Tensor, logits: Tensor, b: Tensor, interaction: Tensor | None, r: int) -> Tensor:
    """Route, mix and add the update; one kernel where there is one.

    Args:
        y: the base's outputs, ``[G, N, D_out]``; this and the next two may be views of one tensor.
        z: ``[G, N, k * r]``, or ``[G, N, r]`` where all experts share A.
        logits: ``[G, N, k]``.
        b: ``[G, k * r, D_out]``, scaled.
        interaction: M transposed, ``[G, k, k]``, wide; None for the identity.
        r: rank of one expert.

    Returns:
        ``[G, N, D_out]``.
    """
    if usable(y, compiled=True) and fits(logits.shape[2], r):
        from llava_teamlora.kernels import decode as kernels

        return kernels.expand(y, z, logits, b, interaction, r)
    participation = torch.softmax(logits, dim=2, dtype=wide_dtype(logits.dtype))  # [G, N, k]
    if interaction is not None:
        participation = torch.bmm(participation, interaction)
    h = z.view(*z.shape[:2], -1, r) * participation.unsqueeze(3)  # [G, N, k, r]
    return torch.baddbmm(y, h.to(z.dtype).flatten(2), b)


@dataclass(frozen=True, eq=False)
class Place:
    """One linear's place in a pack."""

    pack: Pack
    index: int
    held: tuple[Tensor, ...]
    versions: tuple[int, ...]

    def leave(self, layer: PackableLinear) -> bool:
        """Whether the ordinary way must be gone; a layer whose weights are trained, or have changed, is unpacked."""
        grad, compiling = torch.is_grad_enabled(), torch.compiler.is_compiling()
        if not compiling and (
            (grad and any(p.requires_grad for p in self.held)) or self.versions != versions(self.held)
        ):
            layer.unpack()  # its weights part from their copy here
            return True
        return grad

    def run(self, layer: PackableLinear, x: Tensor) -> Tensor | None:
        """Return the layer's output for x ``[..., D_in]``, or None if the ordinary way must be gone."""
        pack = self.pack
        if self.leave(layer):
            return None
        if not _fits(layer, x, pack.weight.dtype):
            return None
        if self.index == 0:
            outputs = pack(x.reshape(-1, x.shape[-1]))  # [G, N, D_out]
            pack.waiting = (x, versions((x,)), outputs) if outputs.shape[0] > 1 else None
        elif (waiting := pack.waiting) is not None and waiting[0] is x and waiting[1] == versions((x,)):
            outputs = waiting[2]
            if self.index == outputs.shape[0] - 1:
                pack.waiting = None
        else:
            return None
        return outputs[self.index].view(*x.shape[:-1], -1)


def _fits(layer: PackableLinear, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the pack computes what the layer would: no autocast, no tangents, nobody who listens, few tokens."""
    few = x.shape[:-1].numel() <= MOST_TOKENS and not is_forward_mode()
    idle = layer.disable_adapters or getattr(layer, "routing_sinks", ()) or getattr(layer, "expert_gains", None)
    return few and x.dtype == dtype and not idle and not (not x.is_meta and torch.is_autocast_enabled(x.device.type))


class PackableLinear(LowRankLinear):
    """A linear that may stand in a pack; what changes its weights, adapter or mode, or saves it, takes it out again."""

    _place: Place | None = None

    @property
    def packed(self) -> Place | None:
        """Its place in a pack, or None; one that a neighbour has undone is none."""
        place = self._place
        return place if place is not None and place.pack.bases else None

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return the weights of the active adapters."""
        modules = (self.weight_module(name, adapter) for name in self.weight_names for adapter in self.active_adapters)
        return [parameter for module in modules if module is not None for parameter in module.parameters()]

    def unpack(self) -> None:
        """Undo the pack, for all of its linears; a layer outside any pack stays as it is."""
        if self._place is not None:
            self._place.pack.undo()
            self._place = None

    def train(self, mode: bool = True) -> PackableLinear:
        """Leave the pack for training; see nn.Module."""
        if mode:
            self.unpack()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> PackableLinear:
        self.unpack()  # a move or cast would leave the stack behind
        return super()._apply(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Leave the pack: whoever writes a view into a file may write the stack along, or refuse; see nn.Module."""
        if self.packed is not None:
            tell_once("the state of a packed model was read, which unpacks it: prepare_for_inference() packs it again")
            self.unpack()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **kwargs)

    def set_adapter(self, adapter_names: str | list[str], *args: Any, **kwargs: Any) -> None:
        """Leave the pack if its adapter is another; see peft, which calls this to enable adapters again too."""
        if ([adapter_names] if isinstance(adapter_names, str) else list(adapter_names)) != self.active_adapters:
            self.unpack()
        super().set_adapter(adapter_names, *args, **kwargs)

    def update_layer(self, *args: Any, **kwargs: Any) -> None:
        """Leave the pack; see LowRankLinear."""
        self.unpack()
        super().update_layer(*args, **kwargs)

    def delete_adapter(self, adapter_name: str) -> None:
        """Leave the pack; see peft."""
        self.unpack()
        super().delete_adapter(adapter_name)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Leave the pack, which holds the old scale; see LowRankLinear."""
        self.unpack()
        super().set_scale(adapter, scale)

    def scale_layer(self, scale: float) -> None:
        """Leave the pack, which holds the old scale; see LowRankLinear."""
        self.unpack()
        super().scale_layer(scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Leave the pack, which holds the old scale; see LowRankLinear."""
        self.unpack()
        super().unscale_layer(scale)


def base_linear(layer: LowRankLinear) -> nn.Linear:
    """Return the linear that a packed layer, or one that can be packed, adapts."""
    base = layer.get_base_layer()
    assert isinstance(base, nn.Linear)
    return base


@torch.inference_mode(False)
@torch.no_grad()
def pack(layers: Sequence[RoutedLinear]) -> None:
    """Pack linears that read the same input, each with its one active adapter, of equal shapes throughout."""
    first = layers[0]
    bases = [base_linear(layer) for layer in layers]
    names = [layer.active_adapters[0] for layer in layers]
    linears = list(zip(layers, names, strict=True))
    dtype = bases[0].weight.dtype
    rows = [
        stack_rows(base.weight, layer.linear("A", name).weight, layer.linear("router", name).weight, dtype=dtype)
        for base, (layer, name) in zip(bases, linears, strict=True)
    ]
    config, width = first.adapter_configs[names[0]], first.out_features
    used = (width, len(first.linear("A", names[0]).weight), config.num_experts)
    up = [layer.linear("B", name).weight.T * layer.scaling[name] for layer, name in linears]
    made = Pack(
        torch.stack(rows),
        _bias(bases, len(rows[0])),
        torch.stack(up).to(dtype),
        _interaction(linears, wide_dtype(dtype)),
        (*used, len(rows[0]) - sum(used)),
        config.r,
        tuple(base.weight for base in bases),
    )
    for index, (layer, base) in enumerate(zip(layers, bases, strict=True)):
        base.weight.data = made.weight[index, :width]
        held = tuple(layer.adapter_parameters())
        layer._place = Place(made, index, held, versions(held))


def versions(weights: Sequence[Tensor]) -> tuple[int, ...]:
    """Return how often each tensor was written in place; an inference tensor does not count, nor any in a trace."""
    if torch.compiler.is_compiling():
        return ()
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


def _bias(bases: Sequence[nn.Linear], rows: int) -> Tensor | None:
    """Return the biases, each with zeros after it up to so many rows, ``[G * rows]``; or None."""
    if all(base.bias is None for base in bases):
        return None
    parts = [base.weight.new_zeros(base.out_features) if base.bias is None else base.bias for base in bases]
    return torch.cat([F.pad(part, (0, rows - len(part))) for part in parts])


def _interaction(linears: Sequence[tuple[RoutedLinear, str]], dtype: torch.dtype) -> Tensor | None:
    """Return the interaction matrices, transposed, ``[G, k, k]``; or None."""
    modules = [layer.weight_module("interaction", name) for layer, name in linears]
    matrices = [module.weight.T.to(dtype) for module in modules if isinstance(module, nn.Linear)]
    return torch.stack(matrices).contiguous() if matrices else None
