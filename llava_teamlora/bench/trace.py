"""``llava-teamlora bench trace``: FLOPs, bytes kept for the backward pass and kernels, counted without computing.

In: settings; by default LLaVA-1.5-7B's shapes. Out: exact counts of a linear, of an MLP, and of an MLP under gradient
checkpointing, for every variant, from tensors on the meta device; no noise, so that tests hold them against limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from llava_teamlora.bench.cases import Case, build_linear, build_mlp, cases_of, draw, forward, trained
from llava_teamlora.bench.counters import Counts, count
from llava_teamlora.bench.output import Check, Column, Found, Row
from llava_teamlora.bench.settings import TraceSettings
from llava_teamlora.bench.timed import Progress

PARTS: dict[str, tuple[Callable[[Case, TraceSettings], nn.Module], bool]] = {
    "linear": (build_linear, False),
    "mlp": (build_mlp, False),
    "mlp, checkpointed": (build_mlp, True),
}
"""What is counted -> how it is built, and whether it is checkpointed."""
Traced = dict[tuple[str, Case], Counts]

COLUMNS = (
    Column("part", "of", "{}"),
    Column("tflops", "TFLOPs", "{:.3f}"),
    Column("flops_ratio", "ratio", "{:.4f}"),
    Column("saved_mib", "MiB kept", "{:,.0f}"),
    Column("saved_ratio", "ratio", "{:.3f}"),
    Column("kernels", "kernels", "{}"),
)
# A padded row more or less in the stacked weight, and the router: 16 rows over a rank of 128, of 6 % of the FLOPs.
ROUTER_SHARE = 1.005


def run(settings: TraceSettings, progress: Progress) -> Found:
    """Count."""
    traced = trace(settings, progress)
    rows = []
    for (part, case), counts in traced.items():
        over = traced[part, case.of(settings.over)]
        figures = {
            "part": part,
            "checkpointing": case.checkpointing,
            "flops": counts.flops,
            "tflops": counts.flops / 1e12,
            "flops_ratio": _ratio(counts.flops, over.flops),
            "saved_bytes": counts.saved_bytes,
            "saved_mib": counts.saved_bytes / 2**20,
            "saved_ratio": _ratio(counts.saved_bytes, over.saved_bytes),
            "kernels": counts.kernels,
        }
        rows.append(Row(case.variant, case.k, case.r, case.dtype, figures))
    return Found(
        title=f"counted on {settings.tokens:,} tokens, {settings.d_in} -> {settings.d_out}",
        rows=rows,
        columns=COLUMNS,
        checks=limits(traced),
        notes=(
            f"ratios: over {settings.over} of the same total rank. Kept: for the backward pass, without parameters.",
        ),
        plotted="saved_ratio",
        split=("dtype", "part"),
    )


def trace(settings: TraceSettings, progress: Progress) -> Traced:
    """Counts by part and case, the reference first."""
    settings = replace(settings, device="meta")
    todo: list[tuple[str, Case]] = []
    for part, (_, checkpointed) in PARTS.items():
        cases = cases_of(settings, (checkpointed,))
        todo += [(part, case) for case in cases if part != "linear" or not case.variant.endswith("-mlp")]
    found: Traced = {}
    for done, (part, case) in enumerate(todo):
        progress(f"counting {case.variant}", done, len(todo))
        holder = PARTS[part][0](case, settings)
        x = draw(case, settings.tokens, settings.d_in, settings)
        found[part, case] = count(holder, forward(holder, case), x, trained(holder, x))
    return found


def limits(traced: Traced) -> list[Check]:
    """Hold TeamLoRA's forms against what they must not exceed."""
    checks = []
    for (part, case), counts in traced.items():
        if case.variant not in ("teamlora-linear", "teamlora-mlp") or case.checkpointing:
            continue
        what = f"{part}, {case.dtype}, k = {case.k}: {case.variant}"
        peft, loop = (traced.get((part, case.of(name))) for name in ("peft-lora", "moelora-loop"))
        if peft is not None:
            flops = _ratio(counts.flops, peft.flops)
            checks.append(Check.counted(f"{what}, FLOPs over peft-lora <= {ROUTER_SHARE}", flops, ROUTER_SHARE))
            kept = 0.57 if case.variant == "teamlora-mlp" else 1.03
            saved = _ratio(counts.saved_bytes, peft.saved_bytes)
            checks.append(Check.counted(f"{what}, bytes kept over peft-lora <= {kept}", saved, kept))
        if loop is not None and case.variant == "teamlora-mlp" and case.k >= 4:
            saved = _ratio(counts.saved_bytes, loop.saved_bytes)
            checks.append(Check.counted(f"{what}, bytes kept over moelora-loop <= .19", saved, 0.19))
    return checks + _growth(traced)


def _growth(traced: Traced) -> list[Check]:
    """The number of kernels must not grow with that of experts."""
    kernels: dict[tuple[str, str, str], dict[int, int]] = {}
    for (part, case), counts in traced.items():
        if case.variant.startswith("teamlora"):
            kernels.setdefault((part, case.variant, case.dtype), {})[case.k] = counts.kernels
    return [
        Check.counted(f"{part}, {dtype}: {variant}, kernels at k = {max(of)} over k = {min(of)} <= 1", _growing(of), 1)
        for (part, variant, dtype), of in kernels.items()
        if len(of) > 1
    ]


def _growing(kernels: dict[int, int]) -> float:
    return kernels[max(kernels)] / kernels[min(kernels)]


def _ratio(one: int, other: int) -> float:
    return float(f"{one / other:.4g}") if other else float("nan")
