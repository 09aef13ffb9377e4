"""Ways of doing the same, timed in turns, so that a machine's moods fall on all of them alike.

In: callables. Out: seconds of each in every round, and ratios of any two within the rounds. In each round every way
runs once, in an order drawn anew; a twin of the reference tells what a ratio of 1 looks like on this machine.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Way = Callable[[], object]
Timer = Callable[[Way, int], float]
"""Runs a way so many times and returns the seconds that took."""
Key = TypeVar("Key", bound=Hashable)

TWIN_TOLERANCE = 0.05
_LEAST_SECONDS = 0.02
"""A piece that is shorter is repeated: a clock's grain and a cold start would be too much of it."""


@dataclass(frozen=True)
class Quartiles:
    """Of one figure over the rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """To four digits; of a single value all three are that."""
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
        return cls(*(float(f"{value:.4g}") for value in quartiles))

    def __str__(self) -> str:
        return f"{self.median:g} ({self.low:g} to {self.high:g})"


class Times:
    """Seconds of each way in every round.

    Args:
        seconds: way -> one figure a round.
        twins: reference -> its twin, both keys of `seconds`.
    """

    def __init__(self, seconds: Mapping[Any, Sequence[float]], twins: Mapping[Any, Any]) -> None:
        self._seconds, self._twins = seconds, twins

    def has(self, way: Hashable) -> bool:
        """Whether it was measured."""
        return way in self._seconds

    def seconds(self, way: Hashable) -> float:
        """Median."""
        return statistics.median(self._seconds[way])

    def rounds(self) -> int:
        """How many counted."""
        return max(map(len, self._seconds.values()))

    def ratio(self, way: Hashable, over: Hashable) -> Quartiles:
        """Of one way's seconds over another's in the same round."""
        return Quartiles.of([one / other for one, other in zip(self._seconds[way], self._seconds[over], strict=True)])

    def twin(self, reference: Hashable) -> Quartiles:
        """Ratio of a reference's twin over it: 1 but for noise."""
        return self.ratio(self._twins[reference], reference)

    def agrees(self, reference: Hashable) -> bool:
        """Whether the twin is as fast as the reference; what is measured against it is else inconclusive."""
        return abs(self.twin(reference).median - 1) <= TWIN_TOLERANCE

    def band(self, reference: Hashable) -> float:
        """How far from 1 the twin's quartiles reach: less is no difference."""
        twin = self.twin(reference)
        return max(abs(twin.low - 1), abs(twin.high - 1))


def measure(
    ways: Mapping[Key, Way],
    twins: Mapping[Key, Key],
    rounds: int,
    *,
    seed: int = 0,
    timer: Timer,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Times:
    """Time all ways once a round, each in an order drawn anew; a run before the first does not count.

    Args:
        ways: name -> does the work.
        twins: reference -> its twin. One that differs from it by more than 5 % doubles the rounds, once.
        rounds: that count.
        seed: of the orders.
        timer: see :func:`timer_on`.
        progress: told after each piece how many of how many are done.
    """
    rng = random.Random(seed)
    repeats = {key: _repeats(way, timer) for key, way in ways.items()}
    seconds: dict[Key, list[float]] = {key: [] for key in ways}
    times = Times(seconds, twins)
    collecting = gc.isenabled()
    gc.disable()  # whose garbage it collects, and when, would be chance
    try:
        for planned in (rounds, 2 * rounds):
            while times.rounds() < planned:
                order = list(ways)
                rng.shuffle(order)
                for place, key in enumerate(order, 1):
                    seconds[key].append(timer(ways[key], repeats[key]) / repeats[key])
                    progress((len(seconds[key]) - 1) * len(ways) + place, planned * len(ways))
                gc.collect()
            if all(map(times.agrees, twins)):
                break
    finally:
        if collecting:
            gc.enable()
    return times


def _repeats(way: Way, timer: Timer) -> int:
    """How often a way runs in one piece; it has run then, and is warm."""
    timer(way, 1)
    return max(1, math.ceil(_LEAST_SECONDS / max(timer(way, 1), 1e-9)))


def timer_on(device: torch.device) -> Timer:
    """Seconds of this process's computing on a CPU, where others may be at work too; of events on a GPU."""
    return _cpu_seconds if device.type == "cpu" else _gpu_seconds


def clock(device: torch.device) -> float:
    """Seconds: of this process's computing on a CPU; else by the wall clock."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _cpu_seconds(way: Way, times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        way()
    return time.process_time() - start


def _gpu_seconds(way: Way, times: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        way()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
