"""What is known about a model's experts, and which of its layers are looked at.

In: a loaded model. Out: the number of experts and the routed layers' names, in the order of participation's rows; or
why there is nothing to see. A view says which layers: ``BLOCK/PART``, such as ``3/gate``, ``mean`` being all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_teamlora.errors import UserError
from llava_teamlora.run_card import FULL_FINETUNING
from llava_teamlora.serving.experts.words import say

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded
    from llava_teamlora.tuners.routed import RoutedLinear

ALL = "mean"
MEAN = f"{ALL}/{ALL}"
"""The view of all layers."""
_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")  # of a layer, in a name such as model.layers.3.mlp.gate_proj


@dataclass(frozen=True)
class Experts:
    """A model's experts, as far as they can be watched.

    Attributes:
        method: the tuning method, as in METHODS; ``none`` is a base as it is.
        k: experts in each layer; 0 where there are none.
        layers: names of the routed layers of the language model, in the order of participation's rows.
    """

    method: str
    k: int = 0
    layers: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[str, ...]:
        """``mean`` and the layers' numbers: what may stand before a view's slash."""
        return (ALL, *dict.fromkeys(_place(name)[0] for name in self.layers))

    @property
    def parts(self) -> tuple[str, ...]:
        """``mean`` and the linears' names, such as ``gate``: what may stand after a view's slash."""
        return (ALL, *dict.fromkeys(_place(name)[1] for name in self.layers))

    def rows(self, view: str) -> list[int]:
        """Which of participation's rows a view is the mean of.

        Raises:
            UserError: no layer is such.
        """
        block, _, part = view.partition("/")
        places = [_place(name) for name in self.layers]
        found = [i for i, place in enumerate(places) if block in (ALL, place[0]) and part in (ALL, place[1])]
        if not found:
            raise UserError(f"no layer of experts is {view!r}; blocks: {self.blocks}, parts: {self.parts}")
        return found

    def or_mean(self, view: str) -> str:
        """The view, or that of all layers where there is none such: beside a model that has it, perhaps."""
        return view if view in [known for _, known in self.choices()] else MEAN

    def choices(self, language: str = "en") -> list[tuple[str, str]]:
        """(label, view) of every view there is, the mean of all first."""
        known = {_place(name) for name in self.layers}
        views = [
            (block, part)
            for block in self.blocks
            for part in self.parts
            if ALL in (block, part) or (block, part) in known
        ]
        return [(view_label(f"{block}/{part}", language), f"{block}/{part}") for block, part in views if self.k]

    def why_none(self, language: str = "en") -> str:
        """Why there are no experts to see; empty where there are some."""
        if self.k:
            return ""
        known = {"none": "no_adapter", FULL_FINETUNING: "trained_in_full"}
        return say(known.get(self.method, "no_router"), language, method=self.method)


def read_experts(loaded: Loaded) -> Experts:
    """Look a model's experts up.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
    """
    method, layers = str(loaded.manifest["method"]), watched_layers(loaded)
    if not layers:
        return Experts(method)
    name, layer = layers[0]
    return Experts(
        method, layer.adapter_configs[layer.active_adapters[0]].num_experts, tuple(name for name, _ in layers)
    )


def watched_layers(loaded: Loaded) -> list[tuple[str, RoutedLinear]]:
    """The routed layers that take part in a token, with their names."""
    from llava_teamlora.generation.routing import routed_text_layers

    model = loaded.model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [
        (name, layer)
        for name, layer in routed_text_layers(base)
        if any(adapter in layer.adapter_configs for adapter in layer.active_adapters)
    ]


def view_label(view: str, language: str = "en") -> str:
    """A view in words."""
    block, _, part = view.partition("/")
    if block == ALL:
        return say("all_layers", language) if part == ALL else say("all_of_part", language, part=part)
    return say("layer", language, block=block) if part == ALL else say("layer_part", language, block=block, part=part)


def _place(name: str) -> tuple[str, str]:
    """A layer's number and its part's name, such as ("3", "gate"); without a number, what stands before the part."""
    above, _, part = name.rpartition(".")
    number = _NUMBER.search(name)
    return number[1] if number else above, part.removesuffix("_proj")
