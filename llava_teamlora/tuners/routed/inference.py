"""Making a model with routed adapters ready to decode: which of its linears are packed, and which are left and why.

In: a model. Out: its adapted linears packed, gate and up of an MLP together, for passes without gradients over a few
tokens; any other pass goes its ordinary way. See packed.py for what a pack is, and for what undoes it.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from llava_teamlora.tuners.routed.choice import why_not_fused
from llava_teamlora.tuners.routed.layer import RoutedLinear, routed_layers
from llava_teamlora.tuners.routed.packed import base_linear, pack

SAME_INPUT = (("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj"))
"""Children of one module that read the same tensor, in the order in which they are called."""

_log = logging.getLogger("llava_teamlora.tuners")


class Prepared(NamedTuple):
    """What became of a model's adapted linears: how many are packed, and how many are left for which reason."""

    packed: int
    left: dict[str, int]


def prepare(model: nn.Module, exact: bool = False) -> Prepared:
    """Pack every adapted linear that can be; the model is in evaluation mode afterwards.

    Args:
        model: any model; one that is packed already is packed anew.
        exact: leave linears whose adapter has a wider dtype than the base weight: packing rounds it to that.
    """
    restore(model)
    model.eval()
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    left: Counter[str] = Counter()
    packed = 0
    for group in _groups(model):
        free: list[RoutedLinear] = []
        for layer in group:
            reason = _obstacle(layer, owners, exact)
            if reason is None:
                free.append(layer)
            else:
                left[reason] += 1
        packed += len(free)
        if len({_kind(layer) for layer in free}) == 1:
            pack(free)
        else:
            for layer in free:
                pack([layer])
    for reason, count in left.items():
        _log.info("prepare_for_inference: %d adapted linear(s) are left as they are: %s", count, reason)
    return Prepared(packed, dict(left))


def restore(model: nn.Module) -> None:
    """Undo `prepare`; nothing happens to a model that is not packed."""
    for layer in routed_layers(model):
        layer.unpack()


def is_prepared(model: nn.Module) -> bool:
    """Whether any linear of the model is packed."""
    return any(layer.packed is not None for layer in routed_layers(model))


def _groups(model: nn.Module) -> Iterator[list[RoutedLinear]]:
    """Yield the adapted linears by what they read, those that stand alone too."""
    seen: set[RoutedLinear] = set()
    for module in model.modules():
        children = dict(module.named_children())
        together = [names for names in SAME_INPUT if names[0] in children]
        for names in (*together, *((name,) for name in children)):
            layers = [children[name] for name in names if name in children]
            group = [layer for layer in layers if isinstance(layer, RoutedLinear) and layer not in seen]
            seen.update(group)
            if group:
                yield group


def _kind(layer: RoutedLinear) -> tuple[object, ...]:
    """What linears of one pack have in common."""
    name, weight = layer.active_adapters[0], base_linear(layer).weight
    config = layer.adapter_configs[name]
    mixes = layer.weight_module("interaction", name) is not None
    return (type(layer), *weight.shape, weight.dtype, weight.device, config.num_experts, config.r, mixes)


def _obstacle(layer: RoutedLinear, owners: Counter[int], exact: bool) -> str | None:
    """Say why a linear cannot be packed; None if it can."""
    reason = why_not_fused(layer)
    if reason is not None:
        return reason
    weight = base_linear(layer).weight
    if exact and any(torch.promote_types(p.dtype, weight.dtype) != weight.dtype for p in layer.adapter_parameters()):
        return "the adapter is wider than the base weight, to which packing would round it"
    if owners[id(weight)] > 1:
        return "the base weight is shared with another module"
    if weight.is_meta or len({p.device for p in (weight, *layer.adapter_parameters())}) > 1:
        return "weights lie on several devices, or are offloaded"
    return None
