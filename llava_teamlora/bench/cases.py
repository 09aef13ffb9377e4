"""What is measured in one run: which variant with how many experts of which rank, built ready to be called.

In: settings. Out: cases; for each a module from ``[1, T, D_in]`` to ``[1, T, D_out]`` with weights drawn by the seed,
the same for all cases of a shape, and what a training does with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llava_teamlora.bench.parts import Shape, fill
from llava_teamlora.bench.settings import Settings, StepSettings
from llava_teamlora.bench.variants import VARIANTS, adapt
from llava_teamlora.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "amp": torch.bfloat16}
LINEAR, MLP = ("linear",), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        variant: name in VARIANTS.
        k: number of experts; 1 where there are none.
        r: rank of one expert.
        dtype: name in DTYPES.
        checkpointing: whether the forward pass is computed again in the backward pass.
        twin: whether it is only there to be compared with its equal.
    """

    variant: str
    k: int
    r: int
    dtype: str
    checkpointing: bool = False
    twin: bool = False

    def shape(self, dropout: float = 0.0) -> Shape:
        """Of its adapters."""
        return Shape(self.k, self.r, dropout)

    def of(self, variant: str) -> Case:
        """The case of another variant beside which this one stands: same total rank, dtype and checkpointing."""
        k, r = self.k, self.r
        if VARIANTS[variant].equation in ("base", "lora"):
            k, r = 1, k * r
        return replace(self, variant=variant, k=k, r=r, twin=False)


def cases_of(settings: Settings, checkpointing: Sequence[bool] = (False,)) -> list[Case]:
    """All that a run compares, each once, and the references even where not asked for.

    Raises:
        UserError: `total_rank` is no multiple of a k.
    """
    found: dict[Case, None] = {}
    for dtype in settings.dtype:
        for checkpointed in checkpointing:
            for k in settings.k:
                try:
                    first = Case(settings.over, k, settings.rank(k), dtype, checkpointed)
                except ValueError as error:
                    raise UserError(str(error)) from error
                names = (settings.over, *settings.variants)
                found.update(dict.fromkeys(first.of(name) for name in names))
    return list(found)


def with_twins(cases: Sequence[Case], over: str) -> dict[Case, Case]:
    """Each reference among the cases, and its twin."""
    return {case: replace(case, twin=True) for case in cases if case.variant == over}


def build_linear(case: Case, settings: StepSettings, dropout: float | None = None) -> nn.Module:
    """A holder whose ``linear`` is adapted; called, it is that linear."""
    torch.manual_seed(settings.seed)
    with torch.device(settings.device):
        base = nn.Linear(settings.d_in, settings.d_out, bias=False, dtype=DTYPES[case.dtype])
    return _adapted(_Holder({"linear": base}), LINEAR, case, settings, dropout)


def build_mlp(case: Case, settings: StepSettings, dropout: float | None = None) -> nn.Module:
    """A holder whose ``mlp``, a LLaMA's, has adapted linears; called, it is that MLP."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    torch.manual_seed(settings.seed)
    config = LlamaConfig(hidden_size=settings.d_in, intermediate_size=settings.d_out, num_attention_heads=1)
    with torch.device(settings.device):
        mlp = LlamaMLP(config)
    mlp.to(DTYPES[case.dtype])
    return _adapted(_Holder({"mlp": mlp}), tuple(f"mlp.{name}" for name in MLP), case, settings, dropout)


class _Holder(nn.Module):
    """A model of one part, called without what a PeftModel does around it."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        (self.part,) = parts
        self.add_module(self.part, *parts.values())

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.part)(x)


def _adapted(
    holder: nn.Module, targets: Sequence[str], case: Case, settings: Settings, dropout: float | None
) -> nn.Module:
    shape = case.shape(settings.dropout if dropout is None else dropout)
    adapt(holder, case.variant, targets, shape, wide=case.dtype == "amp")
    for number, target in enumerate(targets):
        fill(holder.get_submodule(target), settings.seed + number)
    return holder


def adapted_linears(holder: nn.Module) -> dict[str, nn.Module]:
    """The linears of a holder by their short names."""
    if hasattr(holder, "linear"):
        return {"linear": holder.get_submodule("linear")}
    return {name: holder.get_submodule(f"mlp.{name}") for name in MLP}


def draw(case: Case, rows: int, width: int, settings: Settings) -> Tensor:
    """An input ``[1, rows, width]`` that takes a gradient."""
    generator = torch.Generator().manual_seed(settings.seed)
    x = torch.randn(1, rows, width, generator=generator) if settings.device != "meta" else torch.empty(1, rows, width)
    return x.to(settings.device, DTYPES[case.dtype]).requires_grad_()


def trained(holder: nn.Module, x: Tensor) -> list[Tensor]:
    """What a training needs gradients of: the input, and the adapters."""
    return [x, *(parameter for parameter in holder.parameters() if parameter.requires_grad)]


def forward(holder: nn.Module, case: Case) -> Callable[[Tensor], Tensor]:
    """How a training calls it: under autocast for "amp", checkpointed where the case says so."""
    call = _checkpointed(holder, case) if case.checkpointing else holder

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16) if case.dtype == "amp" else nullcontext():
            return call(x)

    return run


def _checkpointed(holder: nn.Module, case: Case) -> Callable[[Tensor], Tensor]:
    from torch.utils.checkpoint import checkpoint

    more: dict[str, Any] = {}
    if case.variant.endswith("-mlp"):
        from llava_teamlora.tuners.routed.recompute import skipping_contexts

        # Such an MLP skips its output where it ends a decoder layer. Here it is the whole region, so nobody reads it.
        holder.get_submodule("mlp").ends_layer = True  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
        more["context_fn"] = skipping_contexts
    return lambda x: checkpoint(holder, x, use_reentrant=False, **more)


def step(holder: nn.Module, case: Case, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """A forward and a backward pass, as something to call again and again."""
    run, leaves = forward(holder, case), trained(holder, x)
    return lambda: torch.autograd.grad(run(x), leaves, dy)
