"""``llava-teamlora bench memory``: what a training step holds at its worst moment, estimated and measured.

In: settings. Out: for every variant, with and without gradient checkpointing, bytes beside weights, gradients and
optimizer states: as the trainer's estimate has them (training/outlook), and as torch's allocator gave them out. On the
meta device the estimate stands alone, of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from llava_teamlora.bench.cases import DTYPES, Case, cases_of
from llava_teamlora.bench.output import Check, Column, Found, Row
from llava_teamlora.bench.peak import peak_bytes
from llava_teamlora.bench.random_llava import build_random_llava, picture_shape, random_batch
from llava_teamlora.bench.timed import Progress
from llava_teamlora.bench.whole_model import adapted, step_of, trained
from llava_teamlora.bench.whole_settings import MemorySettings
from llava_teamlora.training.outlook.rehearsal import BatchShape, Rehearsal, Rehearsed

COLUMNS = (
    Column("checkpointing", "checkpointing", "{}"),
    Column("estimated_mib", "MiB estimated", "{:,.1f}"),
    Column("measured_mib", "measured", "{:,.1f}"),
    Column("estimate_ratio", "estimated / measured", "{:.3f}"),
    Column("ratio", "ratio", "{:.3f}"),
    Column("tflops", "TFLOPs", "{:.3g}"),
)
NOTE = (
    "Activations and all else that a forward and backward pass holds beside weights and gradients. ratio: measured "
    "(where it was, else estimated) over {over} of the same total rank and checkpointing. TFLOPs: of the pass, counted."
)


def run(settings: MemorySettings, progress: Progress) -> Found:
    """Estimate, and measure where there is a device."""
    cases = cases_of(settings, checkpointing=(False, True))
    estimated = {}
    for done, case in enumerate(cases):
        progress(f"estimating {case.variant}", done, len(cases))
        estimated[case] = estimate(case, settings)
    measured = {} if settings.device == "meta" else _measured(cases, settings, progress)
    known = measured or {case: found.peak_bytes for case, found in estimated.items()}
    rows = [_row(case, estimated[case], measured.get(case), known, settings.over) for case in cases]
    return Found(
        title=f"a training step's peak, LLaVA {settings.size}, {settings.samples} x {settings.tokens} tokens",
        rows=rows,
        columns=COLUMNS,
        checks=[
            Check.counted(
                f"{case.variant}, {case.dtype}, checkpointing {case.checkpointing}: estimate off by <= .05",
                abs(estimated[case].peak_bytes / measured[case] - 1),
                0.05,
            )
            for case in measured
        ],
        notes=(NOTE.format(over=settings.over),),
        split=("dtype", "checkpointing"),
    )


def estimate(case: Case, settings: MemorySettings) -> Rehearsed:
    """The trainer's estimate for one case."""
    base = build_random_llava(settings.size, DTYPES[case.dtype], "meta")
    with torch.device("meta"):
        model = adapted(base, case.variant, case.shape(settings.dropout), wide=case.dtype == "amp")
    shape = BatchShape(settings.samples, settings.tokens, settings.samples, picture_shape(base.config))
    rehearsal = Rehearsal(model)  # pyright: ignore[reportArgumentType]  it has what a PreTrainedModel has
    return rehearsal.step(shape, autocast=autocast_of(case), checkpointing=case.checkpointing)


def autocast_of(case: Case) -> torch.dtype | None:
    """What a case computes in, where that is not its weights' dtype."""
    return torch.bfloat16 if case.dtype == "amp" else None


def _measured(cases: list[Case], settings: MemorySettings, progress: Progress) -> dict[Case, int]:
    """Bytes by case; cases that do not fit are left out."""
    device = torch.device(settings.device)
    found: dict[Case, int] = {}
    bases: dict[str, Any] = {}
    for done, case in enumerate(cases):
        progress(f"measuring {case.variant}", done, len(cases))
        if case.dtype not in bases:
            bases.clear()
            torch.manual_seed(settings.seed)
            bases[case.dtype] = build_random_llava(settings.size, DTYPES[case.dtype], device)
        if (size := _measure(bases[case.dtype], case, settings, device)) is not None:
            found[case] = size
    return found


def _measure(base: Any, case: Case, settings: MemorySettings, device: torch.device) -> int | None:
    model = adapted(base, case.variant, case.shape(settings.dropout), wide=case.dtype == "amp")
    batch = random_batch(base.config, settings.samples, settings.tokens, device)
    batch["attention_mask"][0, -1] = 0  # a batch without any padding needs no mask; the estimate has one
    step = step_of(model, batch, autocast_of(case), case.checkpointing)
    for parameter in trained(model):
        parameter.grad = torch.zeros_like(parameter)
    try:
        step.backward()
        return peak_bytes(step.backward, device) + sum(tensor.nbytes for tensor in batch.values())
    except torch.OutOfMemoryError:
        return None


def _row(case: Case, found: Rehearsed, measured: int | None, known: Mapping[Case, int], over: str) -> Row:
    figures = {
        "checkpointing": case.checkpointing,
        "estimated_mib": found.peak_bytes / 2**20,
        "measured_mib": None if measured is None else measured / 2**20,
        "estimate_ratio": None if measured is None else found.peak_bytes / measured,
        "tflops": found.operations / 1e12,
        "ratio": None,
    }
    reference = replace(case.of(over), checkpointing=case.checkpointing)
    if case in known and reference in known:
        figures["ratio"] = known[case] / known[reference]
    return Row(case.variant, case.k, case.r, case.dtype, figures)
