"""``llava-teamlora bench mlp``: a SwiGLU MLP's forward and backward pass, with and without gradient checkpointing.

In: settings. Out: ratios over peft's LoRA of the same total rank and the same checkpointing, errors, limits.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from llava_teamlora.bench.cases import Case, adapted_linears, build_mlp, cases_of, draw, forward, step
from llava_teamlora.bench.exactness import Errors, errors_of
from llava_teamlora.bench.measuring import Times, Way
from llava_teamlora.bench.output import Check, Column, Found
from llava_teamlora.bench.settings import MlpSettings
from llava_teamlora.bench.step import ERROR_TOKENS
from llava_teamlora.bench.timed import COLUMNS, NOTE, Progress, check, rows_of, time_cases
from llava_teamlora.bench.variants import VARIANTS


def run(settings: MlpSettings, progress: Progress) -> Found:
    """Measure."""
    cases = cases_of(settings, checkpointing=(False, True))
    times, errors = time_cases(cases, lambda case: _build(case, settings), settings, progress)
    shape = f"{settings.d_in} -> {settings.d_out} -> {settings.d_in}"
    return Found(
        title=f"SwiGLU MLP, forward and backward, {shape}, {settings.tokens} tokens",
        rows=rows_of(cases, times, errors, settings, checkpointing="checkpointing"),
        columns=(Column("checkpointing", "checkpointing", "{}"), *COLUMNS),
        checks=_checks(cases, times, settings),
        notes=(NOTE.format(over=settings.over),),
        split=("dtype", "checkpointing"),
    )


def _build(case: Case, settings: MlpSettings) -> tuple[Way, Errors]:
    holder = build_mlp(case, settings)
    x = draw(case, settings.tokens, settings.d_in, settings)
    few = draw(case, min(ERROR_TOKENS, settings.tokens), settings.d_in, settings)
    exact = build_mlp(case, settings, dropout=0.0)
    errors = errors_of(forward(exact, case), adapted_linears(exact), few, VARIANTS[case.variant].equation, case.shape())
    return step(holder, case, x, torch.randn_like(x)), errors


def _checks(cases: list[Case], times: Times, settings: MlpSettings) -> list[Check]:
    found = []
    for case in cases:
        if case.variant != "teamlora-mlp":
            continue
        what, peft = f"{case.dtype}, k = {case.k}: teamlora-mlp", case.of("peft-lora")
        if case.checkpointing:
            found.append(check(times, f"{what} over peft-lora, both checkpointed", case, peft, 0.90, settings))
            continue
        found.append(check(times, f"{what} over peft-lora", case, peft, 1.0, settings))
        computed_again = replace(peft, checkpointing=True)
        found.append(check(times, f"{what} over peft-lora checkpointed", case, computed_again, 0.70, settings))
    return [one for one in found if one is not None]
