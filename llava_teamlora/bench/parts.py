"""An adapter's shape, and its weights wherever a variant keeps them: to fill them alike and to compare gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Of an adapter.

    Attributes:
        k: number of experts.
        r: rank of one expert.
        dropout: on A's input.
        scale: alpha / r.
    """

    k: int
    r: int
    dropout: float = 0.0
    scale: float = 2.0


class Parts(NamedTuple):
    """An adapter's weights, each in one piece or one an expert.

    A ``[rank, D_in]`` in rows, B ``[D_out, k * r]`` in columns, the router ``[k, D_in]`` and M ``[k, k]``; a kind may
    be absent.
    """

    a: tuple[Tensor, ...] = ()
    b: tuple[Tensor, ...] = ()
    router: tuple[Tensor, ...] = ()
    interaction: tuple[Tensor, ...] = ()

    def all(self) -> tuple[Tensor, ...]:
        """Every piece, in the order of the kinds."""
        return tuple(piece for kind in self for piece in kind)


class Whole(NamedTuple):
    """Each kind in one piece; None where absent."""

    a: Tensor | None = None
    b: Tensor | None = None
    router: Tensor | None = None
    interaction: Tensor | None = None

    @classmethod
    def of(cls, parts: Parts) -> Whole:
        """Put the pieces together, in float64."""
        pieces = zip(parts, (0, 1, 0, 0), strict=True)
        return cls(*(torch.cat([piece.double() for piece in kind], axis) if kind else None for kind, axis in pieces))


def weight_of(linear: nn.Module) -> Tensor:
    """A linear's weight."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight


def parts_of(layer: nn.Module) -> Parts:
    """Weights of an adapted linear; none of a plain one.

    Raises:
        TypeError: a layer of an unknown kind.
    """
    from peft.tuners.lora import LoraLayer

    from llava_teamlora.bench.rivals import Rival
    from llava_teamlora.tuners.routed.layer import RoutedLinear

    if isinstance(layer, Rival):
        return layer.parts()
    if isinstance(layer, LoraLayer):
        return Parts((weight_of(layer.lora_A["default"]),), (weight_of(layer.lora_B["default"]),))
    if isinstance(layer, RoutedLinear):
        found = (layer.weight_module(name, "default") for name in ("A", "B", "router", "interaction"))
        return Parts(*(() if module is None else (weight_of(module),) for module in found))
    if isinstance(layer, nn.Linear):
        return Parts()
    raise TypeError(f"{type(layer).__name__} is no linear, adapted or plain, that this bench knows")


def base_weight(layer: nn.Module) -> Tensor:
    """W_0 of an adapted linear, or a plain one's weight."""
    return weight_of(getattr(layer, "base", None) or getattr(layer, "base_layer", None) or layer)


@torch.no_grad()
def fill(layer: nn.Module, seed: int) -> None:
    """Draw an adapter's weights, none of them zero, the same for the same seed; a meta tensor stays one."""
    generator = torch.Generator().manual_seed(seed)
    for name, pieces in parts_of(layer)._asdict().items():
        for piece in pieces:
            rows, columns = piece.shape
            if name == "interaction":
                drawn = torch.eye(rows) + torch.rand(rows, rows, generator=generator) / rows
            else:
                drawn = (2 * torch.rand(rows, columns, generator=generator) - 1) / columns**0.5
            piece.copy_(drawn)
