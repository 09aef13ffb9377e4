"""``llava-teamlora bench decode``: one token through a stack of MLPs, without gradients; or a whole model's.

In: settings. Out: ratios over peft's LoRA of the same total rank, errors, limits. The stack's weights together are
larger than the last-level cache, so that each layer's are read from memory, as a model's are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_teamlora.bench import whole_decode
from llava_teamlora.bench.cases import Case, adapted_linears, build_mlp, cases_of, draw, forward
from llava_teamlora.bench.exactness import Errors, equation
from llava_teamlora.bench.measuring import Times, Way
from llava_teamlora.bench.output import Check, Found
from llava_teamlora.bench.parts import Whole, base_weight, parts_of
from llava_teamlora.bench.settings import DecodeSettings
from llava_teamlora.bench.timed import COLUMNS, NOTE, Progress, check, rows_of, time_cases
from llava_teamlora.bench.variants import VARIANTS
from llava_teamlora.tuners.routed.inference import prepare


def run(settings: DecodeSettings, progress: Progress) -> Found:
    """Measure a stack, or the model that the settings ask for."""
    if settings.model is not None:
        return whole_decode.run(settings, progress)
    cases = cases_of(settings)
    times, errors = time_cases(cases, lambda case: _build(case, settings), settings, progress)
    shape = f"{settings.layers} MLPs of {settings.d_in} -> {settings.d_out} -> {settings.d_in}"
    return Found(
        title=f"decoding, {settings.tokens} token(s) through {shape}",
        rows=rows_of(cases, times, errors, settings),
        columns=tuple(column for column in COLUMNS if column.figure != "gradient_error"),
        checks=_checks(cases, times, settings),
        notes=(NOTE.format(over=settings.over), f"weights of a stack: {_stack_mib(settings):.0f} MiB in bf16"),
    )


def _build(case: Case, settings: DecodeSettings) -> tuple[Way, Errors]:
    layers = [build_mlp(case, replace(settings, seed=settings.seed + n)).eval() for n in range(settings.layers)]
    x = draw(case, settings.tokens, settings.d_in, settings).detach()
    exact = _exactly(case, layers[0], x)
    if case.variant.endswith("-packed"):
        for layer in layers:
            prepare(layer)
    calls = [forward(layer, case) for layer in layers]
    with torch.inference_mode():
        difference = calls[0](x).double()[0] - exact
    error = float(f"{(difference.norm() / exact.norm()).item():.2g}")
    return _through(calls, x), Errors(error, float("nan"))


def _through(calls: list[Callable[[Tensor], Tensor]], x: Tensor) -> Way:
    @torch.inference_mode()
    def way() -> Tensor:
        value = x
        for call in calls:
            value = value + call(value)
        return value

    return way


@torch.no_grad()
def _exactly(case: Case, holder: nn.Module, x: Tensor) -> Tensor:
    name, value = VARIANTS[case.variant].equation, x.double()[0]
    maps = [(base_weight(layer).double(), Whole.of(parts_of(layer))) for layer in adapted_linears(holder).values()]
    gate, up = (equation(name, value, *map_, case.shape()) for map_ in maps[:2])
    return equation(name, F.silu(gate) * up, *maps[2], case.shape())


def _stack_mib(settings: DecodeSettings) -> float:
    return settings.layers * 3 * settings.d_in * settings.d_out * 2 / 2**20


def _checks(cases: list[Case], times: Times, settings: DecodeSettings) -> list[Check]:
    found = []
    for case in cases:
        if case.variant == "teamlora-packed":
            for name, limit in (("peft-lora", 1.03), ("moelora-loop", 0.90)):
                what = f"{case.dtype}, k = {case.k}: teamlora-packed over {name}"
                found.append(check(times, what, case, case.of(name), limit, settings))
    return [one for one in found if one is not None]
