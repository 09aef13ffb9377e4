"""``llava-teamlora bench step``: a linear's forward and backward pass, every variant beside the others.

In: settings. Out: ratios over peft's LoRA of the same total rank, errors, and the limits that TeamLoRA must keep.
"""

from __future__ import annotations

import torch

from llava_teamlora.bench.cases import Case, adapted_linears, build_linear, cases_of, draw, forward, step
from llava_teamlora.bench.exactness import Errors, errors_of
from llava_teamlora.bench.measuring import Times, Way
from llava_teamlora.bench.output import Check, Found
from llava_teamlora.bench.settings import StepSettings
from llava_teamlora.bench.timed import COLUMNS, NOTE, Progress, check, rows_of, time_cases
from llava_teamlora.bench.variants import VARIANTS

OVER_LOOP = {2: 0.80, 4: 0.68, 8: 0.48}
"""What a step may cost over the published MoELoRA loop's, by the number of experts."""
ERROR_TOKENS = 256


def run(settings: StepSettings, progress: Progress) -> Found:
    """Measure."""
    cases = cases_of(settings)
    times, errors = time_cases(cases, lambda case: _build(case, settings), settings, progress)
    return Found(
        title=f"linear, forward and backward, {settings.d_in} -> {settings.d_out}, {settings.tokens} tokens",
        rows=rows_of(cases, times, errors, settings),
        columns=COLUMNS,
        checks=_checks(cases, times, settings),
        notes=(NOTE.format(over=settings.over),),
    )


def _build(case: Case, settings: StepSettings) -> tuple[Way, Errors]:
    holder = build_linear(case, settings)
    x = draw(case, settings.tokens, settings.d_in, settings)
    dy = torch.randn_like(forward(holder, case)(x)).detach()
    few = draw(case, min(ERROR_TOKENS, settings.tokens), settings.d_in, settings)
    exact = build_linear(case, settings, dropout=0.0)  # the equation knows no dropout
    errors = errors_of(forward(exact, case), adapted_linears(exact), few, VARIANTS[case.variant].equation, case.shape())
    return step(holder, case, x, dy), errors


def _checks(cases: list[Case], times: Times, settings: StepSettings) -> list[Check]:
    ours = [case for case in cases if case.variant == "teamlora-linear"]
    found = []
    for case in ours:
        what = f"{case.dtype}, k = {case.k}: teamlora-linear over"
        for name, limit in (("peft-lora", 1.0), ("moelora-loop", OVER_LOOP.get(case.k))):
            if limit is not None:
                found.append(check(times, f"{what} {name}", case, case.of(name), limit, settings))
    for dtype in settings.dtype:
        same = sorted((case for case in ours if case.dtype == dtype), key=lambda case: case.k)
        if len(same) > 1 and same[0].k * same[0].r == same[-1].k * same[-1].r:
            few, many = same[0], same[-1]
            what = f"{dtype}: teamlora-linear, k = {many.k} over k = {few.k} at total rank {few.k * few.r}"
            found.append(check(times, what, many, few, 1.05, settings))
    return [one for one in found if one is not None]
