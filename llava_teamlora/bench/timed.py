"""What all timed benches share: measure cases beside their twins, and turn the times into rows and verdicts.

In: cases and a way to run each. Out: times; a row a case, its ratio over the reference of its own total rank and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from llava_teamlora.bench.cases import Case, with_twins
from llava_teamlora.bench.exactness import Errors
from llava_teamlora.bench.measuring import Times, Way, measure, timer_on
from llava_teamlora.bench.output import Check, Column, Row
from llava_teamlora.bench.settings import Settings

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much is done."""

COLUMNS = (
    Column("ratio", "ratio (quart.)"),
    Column("twin", "A/A", "{:.3f}"),
    Column("ms", "ms", "{:.2f}"),
    Column("y_error", "y error", "{:.1e}"),
    Column("gradient_error", "grad. error", "{:.1e}"),
)
NOTE = (
    "ratio: seconds over {over} of the same total rank in the same round, median and quartiles; A/A: {over}'s own "
    "twin, ? where it is more than 5 % off: inconclusive. Errors: relative, against a float64 loop; the worst gradient."
)


def time_cases(
    cases: Sequence[Case],
    build: Callable[[Case], tuple[Way, Errors | None]],
    settings: Settings,
    progress: Progress,
) -> tuple[Times, dict[Case, Errors | None]]:
    """Build every case, and its twin if it is a reference, and time them all in turns.

    Args:
        cases: to compare.
        build: returns what to time, and the case's errors.
        settings: of the run; a CPU computes on one thread meanwhile.
        progress: see there.
    """
    twins = with_twins(cases, settings.over)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways: dict[Case, Way] = {}
        errors: dict[Case, Errors | None] = {}
        everything = (*cases, *twins.values())
        for done, case in enumerate(everything):
            progress(f"building {case.variant}", done, len(everything))
            ways[case], errors[case] = build(case)
        timer = timer_on(torch.device(settings.device))
        measuring = ("measuring",)
        times = measure(
            ways,
            twins,
            settings.rounds,
            seed=settings.seed,
            timer=timer,
            progress=lambda done, total: progress(*measuring, done, total),
        )
    finally:
        torch.set_num_threads(threads)
    return times, errors


def rows_of(
    cases: Sequence[Case], times: Times, errors: Mapping[Case, Errors | None], settings: Settings, **more: str
) -> list[Row]:
    """A row a case.

    Args:
        cases: in order.
        times: of them and the twins.
        errors: of the cases; None where there are none.
        settings: of the run.
        more: further figures: name -> attribute of the case.
    """
    rows = []
    for case in cases:
        over = case.of(settings.over)
        ratio, error = times.ratio(case, over), errors[case]
        figures: dict[str, Any] = {name: getattr(case, attribute) for name, attribute in more.items()}
        figures |= {"ratio": ratio.median, "q1": ratio.low, "q3": ratio.high, "twin": times.twin(over).median}
        figures |= {"ms": float(f"{1000 * times.seconds(case):.4g}"), "inconclusive": not times.agrees(over)}
        if error is not None:
            figures["y_error"] = error.y
            if not math.isnan(error.gradients):  # decoding has none
                figures["gradient_error"] = error.gradients
        rows.append(Row(case.variant, case.k, case.r, case.dtype, figures))
    return rows


def check(times: Times, what: str, case: Case, over: Case, limit: float, settings: Settings) -> Check | None:
    """Hold a ratio of two cases against a limit; None where one of them was not measured.

    A ratio that is over a limit of 1 by less than twins differ (their quartiles) is no difference, so it keeps it.
    """
    if not (times.has(case) and times.has(over)):
        return None
    ratio = times.ratio(case, over)
    references = [one for one in (case.of(settings.over), over.of(settings.over)) if times.has(one)]
    slack = max(map(times.band, references), default=0.0) if limit == 1 else 0.0
    holds = ratio.median <= limit + slack if all(map(times.agrees, references)) else None
    words = f"{what} <= {limit:.2f}" + (f" (A/A band {slack:.3f})" if limit == 1 else "")
    return Check(words, ratio.median, limit, holds, ratio.low, ratio.high)
