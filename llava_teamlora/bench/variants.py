"""Every way of computing an adapted linear that is measured, by name, and how a model's linears are made so.

In: any model and the names of its linears. Out: the same model, those linears replaced. peft's LoRA and the methods of
this package are put there by peft itself, so that what is measured is what a training runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from llava_teamlora.bench.fused_lora import FusedLora
from llava_teamlora.bench.parts import Shape
from llava_teamlora.bench.rivals import Batched, Loop

Adapt = Callable[[nn.Module, Sequence[str], Shape, bool], None]
"""Model, full names of linears, shape, whether adapters stay float32 on a half-precision base."""


class Variant(NamedTuple):
    """A way to compute.

    Attributes:
        equation: which: "base", "lora", "moelora", "hydralora" or "teamlora".
        adapt: changes a model.
    """

    equation: str
    adapt: Adapt


def _nothing(model: nn.Module, targets: Sequence[str], shape: Shape, wide: bool) -> None:
    for target in targets:
        model.get_submodule(target).requires_grad_(False)


def _by_layer(
    layer: Callable[[nn.Linear, Shape], nn.Module],
    model: nn.Module,
    targets: Sequence[str],
    shape: Shape,
    wide: bool,
) -> None:
    for target in targets:
        base = model.get_submodule(target)
        assert isinstance(base, nn.Linear)
        adapted = layer(base, shape)
        dtype = None if wide else base.weight.dtype
        for name, child in adapted.named_children():
            if name != "base":
                child.to(device=base.weight.device, dtype=dtype)
        parent, _, name = target.rpartition(".")
        setattr(model.get_submodule(parent), name, adapted)


def _by_peft(
    config: Callable[[Shape], Any], model: nn.Module, targets: Sequence[str], shape: Shape, wide: bool
) -> None:
    from peft import PeftModel, get_peft_model

    chosen = config(shape)
    chosen.target_modules = list(targets)
    found = get_peft_model(model, chosen, autocast_adapter_dtype=wide)  # pyright: ignore[reportArgumentType]
    assert isinstance(found, PeftModel)


def _peft_lora(shape: Shape) -> Any:
    from peft import LoraConfig

    rank = shape.k * shape.r
    return LoraConfig(r=rank, lora_alpha=round(shape.scale * rank), lora_dropout=shape.dropout, target_modules=[])


def _routed(name: str, impl: str, shape: Shape) -> Any:
    from llava_teamlora.tuners.hydralora import HydraLoraConfig
    from llava_teamlora.tuners.moelora import MoeLoraConfig
    from llava_teamlora.tuners.teamlora import TeamLoraConfig

    kinds = {"teamlora": TeamLoraConfig, "moelora": MoeLoraConfig, "hydralora": HydraLoraConfig}
    alpha = round(shape.scale * shape.r)
    return kinds[name](r=shape.r, num_experts=shape.k, alpha=alpha, dropout=shape.dropout, impl=impl)


def _ours(name: str, impl: str) -> Variant:
    return Variant(name, partial(_by_peft, partial(_routed, name, impl)))


VARIANTS: dict[str, Variant] = {
    "base": Variant("base", _nothing),
    "peft-lora": Variant("lora", partial(_by_peft, _peft_lora)),
    "fused-lora": Variant("lora", partial(_by_layer, FusedLora)),
    "moelora-loop": Variant("moelora", partial(_by_layer, partial(Loop, shared=False, split=True))),
    "moelora-stacked": Variant("moelora", partial(_by_layer, partial(Batched, shared=False, split=False))),
    "hydralora-loop": Variant("hydralora", partial(_by_layer, partial(Loop, shared=True, split=True))),
    "hydralora-batched": Variant("hydralora", partial(_by_layer, partial(Batched, shared=True, split=False))),
    "teamlora-reference": _ours("teamlora", "reference"),
    "teamlora-linear": _ours("teamlora", "linear"),
    "teamlora-mlp": _ours("teamlora", "auto"),
    "teamlora-packed": _ours("teamlora", "auto"),
    "moelora-linear": _ours("moelora", "linear"),
    "moelora-mlp": _ours("moelora", "auto"),
    "hydralora-linear": _ours("hydralora", "linear"),
    "hydralora-mlp": _ours("hydralora", "auto"),
}


def adapt(model: nn.Module, variant: str, targets: Sequence[str], shape: Shape, *, wide: bool = False) -> None:
    """Change linears of a model in place.

    Args:
        model: any.
        variant: name in VARIANTS; a plain LoRA gets the rank ``k * r``.
        targets: full names of its linears.
        shape: of the adapters.
        wide: keep the adapters in float32 where the base is in half precision, as a training under autocast does.
    """
    VARIANTS[variant].adapt(model, targets, shape, wide)
