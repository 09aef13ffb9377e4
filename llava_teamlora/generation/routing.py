"""Which experts took part in a token: listening to the routed layers of the language model during a pass.

In: a generator's model. Out: the participation of each expert in each layer at the newest position, a row a batch
entry; the names of these layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llava_teamlora.tuners.routed import RoutedLinear, RoutingRecord

if TYPE_CHECKING:
    from llava_teamlora.generation.reader import Reader


class Routing:
    """A context in which the routed layers are listened to.

    Args:
        reader: whose model.
    """

    def __init__(self, reader: Reader) -> None:
        self.layers = [layer for _, layer in routed_text_layers(reader.base)]
        self.records: list[RoutingRecord] = []

    def __enter__(self) -> Routing:
        for layer in self.layers:
            layer.routing_sinks = (*layer.routing_sinks, self.records)
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.routing_sinks = tuple(sink for sink in layer.routing_sinks if sink is not self.records)

    def newest(self) -> torch.Tensor | None:
        """Participation at the last position of the last pass, ``[B, layers, k]``, on the CPU; None without a router.

        Layers stand in the order of :func:`routed_text_layers`; those that no adapter is active in are left out.
        """
        said = {id(record.layer): record.participation for record in self.records}  # the last pass's, of several
        rows = [said[id(layer)][:, -1] for layer in self.layers if id(layer) in said]
        return torch.stack(rows, dim=1).float().cpu() if rows else None


def routed_text_layers(base: Any) -> list[tuple[str, RoutedLinear]]:
    """The routed layers that every token passes, with their names in the model; none of the vision tower's.

    Args:
        base: a model below its adapter's wrapper.
    """
    named = [(name, module) for name, module in base.named_modules() if isinstance(module, RoutedLinear)]
    part = getattr(getattr(base, "model", None), "language_model", None)
    if part is None:
        return named
    inside = set(map(id, part.modules()))
    return [(name, module) for name, module in named if id(module) in inside]
