"""``llava-teamlora bench train``: whole training steps of a randomly initialised LLaVA, variants side by side.

In: settings. Out: seconds of a step (forward, backward, AdamW) over peft's LoRA of the same total rank, with and
without gradient checkpointing, tokens a second, and the peak of memory. Numbers of experts are measured one after the
other, their variants in turns; a variant that does not fit the device is said to, and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llava_teamlora.bench.cases import DTYPES, Case, cases_of
from llava_teamlora.bench.figure import fig_4a
from llava_teamlora.bench.measuring import Times, Way
from llava_teamlora.bench.memory import autocast_of
from llava_teamlora.bench.output import Check, Column, Found, Row
from llava_teamlora.bench.peak import peak_bytes
from llava_teamlora.bench.random_llava import build_random_llava, random_batch
from llava_teamlora.bench.timed import Progress, check, time_cases
from llava_teamlora.bench.whole_model import Step, adapted, steps_of
from llava_teamlora.bench.whole_settings import TrainSettings

COLUMNS = (
    Column("checkpointing", "checkpointing", "{}"),
    Column("ratio", "ratio (quartiles)"),
    Column("twin", "A/A", "{:.3f}"),
    Column("over_checkpointed", "over it, checkpointed", "{:.3f}"),
    Column("ms", "ms", "{:,.1f}"),
    Column("tokens_per_s", "tokens/s", "{:,.0f}"),
    Column("peak_gib", "peak GiB", "{:.2f}"),
)
NOTE = (
    "ratio: seconds of a step over {over} of the same total rank and checkpointing, same round, median and quartiles; "
    "over it, checkpointed: over {over} with checkpointing. A/A: {over} against its own twin, ? where it is more than "
    "5 % off: inconclusive. peak: weights and optimizer states of this variant alone, and what a step adds."
)


def run(settings: TrainSettings, progress: Progress) -> Found:
    """Measure."""
    rows: list[Row] = []
    checks: list[Check] = []
    missing: list[str] = []
    for dtype in settings.dtype:
        torch.manual_seed(settings.seed)
        base = build_random_llava(settings.size, DTYPES[dtype], settings.device)
        for k in settings.k:
            garage = _Garage(base, replace(settings, dtype=(dtype,), k=(k,)))
            found, limits = garage.measure(progress)
            rows += found
            checks += limits
            missing += garage.missing
    return Found(
        title=f"a training step, LLaVA {settings.size}, {settings.samples} x {settings.tokens} tokens",
        rows=rows,
        columns=COLUMNS,
        checks=checks,
        notes=(NOTE.format(over=settings.over), *missing),
        split=("dtype", "checkpointing"),
        picture=partial(fig_4a, rows) if len(settings.k) > 1 else None,
    )


class _Garage:
    """Models of one number of experts and dtype, all in memory at once, to take turns.

    Args:
        base: whose frozen weights they share.
        settings: with one k and one dtype.

    Attributes:
        missing: what did not fit the device, in words.
    """

    def __init__(self, base: Any, settings: TrainSettings) -> None:
        self._base, self._settings = base, settings
        self._device = torch.device(settings.device)
        self._batch: dict[str, Tensor] = random_batch(base.config, settings.samples, settings.tokens, self._device)
        self._steps: dict[Case, dict[bool, Step]] = {}
        self._figures: dict[Case, dict[str, Any]] = {}
        self.missing: list[str] = []

    def measure(self, progress: Progress) -> tuple[list[Row], list[Check]]:
        """Rows and limits."""
        cases = []
        for done, case in enumerate(planned := cases_of(self._settings, checkpointing=(False, True))):
            progress(f"trying {case.variant}, k = {case.k}", done, len(planned))
            cases += [case] if self._try(case) else []
        times, _ = time_cases(cases, self._build, self._settings, progress)
        return [self._row(case, times) for case in cases], self._checks(cases, times)

    def _step(self, case: Case) -> Step:
        """A case's step; cases that differ in checkpointing alone share weights and optimizer."""
        key = replace(case, checkpointing=False, twin=False)
        if key not in self._steps:
            torch.manual_seed(self._settings.seed)
            shape = case.shape(self._settings.dropout)
            model = adapted(self._base, case.variant, shape, wide=case.dtype == "amp")
            self._steps[key] = steps_of(model, self._batch, autocast_of(case))
        return self._steps[key][case.checkpointing]

    def _build(self, case: Case) -> tuple[Way, None]:
        return self._step(case), None

    def _try(self, case: Case) -> bool:
        """Step twice, and find the peak of the second; False where that does not fit."""
        step = self._step(case)
        try:
            step()  # makes the optimizer's states
            peak = peak_bytes(step, self._device)
        except torch.OutOfMemoryError:
            step.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            how = "with" if case.checkpointing else "without"
            self.missing.append(f"{case.variant}, k = {case.k}, {how} checkpointing: does not fit the device")
            return False
        whole = peak + step.resident_bytes()
        self._figures[case] = {"step_gib": peak / 2**30, "peak_gib": whole / 2**30}
        return True

    def _row(self, case: Case, times: Times) -> Row:
        over = case.of(self._settings.over)
        seconds = times.seconds(case)
        figures: dict[str, Any] = {"checkpointing": case.checkpointing, "ms": float(f"{1000 * seconds:.4g}")}
        figures["tokens_per_s"] = round(self._settings.samples * self._settings.tokens / seconds, 1)
        figures["ratio"] = None
        if times.has(over):
            ratio = times.ratio(case, over)
            figures |= {"ratio": ratio.median, "q1": ratio.low, "q3": ratio.high, "twin": times.twin(over).median}
            figures["inconclusive"] = not times.agrees(over)
        if times.has(again := replace(over, checkpointing=True)):
            figures["over_checkpointed"] = times.ratio(case, again).median
        return Row(case.variant, case.k, case.r, case.dtype, {**figures, **self._figures[case]})

    def _checks(self, cases: Sequence[Case], times: Times) -> list[Check]:
        """The limits that a whole step must keep at 7B's shapes; on smaller ones all else weighs too much."""
        found = []
        for case in cases:
            if case.variant != "teamlora-mlp" or self._settings.size != "7b":
                continue
            what, on = f"{case.dtype}, k = {case.k}: teamlora-mlp", case.checkpointing
            both = "both checkpointed" if on else "neither checkpointed"
            pairs = [(f"over peft-lora, {both}", case.of("peft-lora"), 0.95)]
            if not on:
                peft, loop = (replace(case.of(name), checkpointing=True) for name in ("peft-lora", "moelora-loop"))
                pairs.append(("without checkpointing over peft-lora with it", peft, 0.70))
                pairs.append(("without checkpointing over moelora-loop with it", loop, 0.50))
            for words, over, limit in pairs:
                found.append(check(times, f"{what} {words}", case, over, limit, self._settings))
        return [one for one in found if one is not None]
