"""Ways of doing the same, timed in turns on one machine, so that its moods fall on all of them alike.

In: callables that do a piece of work and say how much it was. Out: rates, and ratios to the first way, with their
spread over the rounds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llava_teamlora.bench.measuring import clock, wait
from llava_teamlora.bench.output import surroundings
from llava_teamlora.files import write_atomically


@dataclass(frozen=True)
class Spread:
    """Of one figure over the rounds.

    Attributes:
        mean: arithmetic.
        std: standard deviation of one round, 0 for a single one.
        rounds: how many.
    """

    mean: float
    std: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of some figures, to four digits."""
        mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(float(f"{mean:.4g}"), float(f"{std:.4g}"), len(values))

    def __str__(self) -> str:
        return f"{self.mean:g} ± {self.std:.2g}"


def measure(ways: Mapping[str, Callable[[], float]], rounds: int, device: torch.device) -> dict[str, dict[str, Spread]]:
    """Time all ways once a round, after one round that does not count.

    Args:
        ways: name -> does the work and returns its amount; the first is what the others are compared with.
        rounds: that count.
        device: waited for before and after each piece.

    Returns:
        For each way ``rate`` (amount a second), ``seconds`` (see ``bench/measuring.py``'s clock), and ``ratio``: its
        rate over the first's in that round.
    """
    names = list(ways)
    rates: dict[str, list[float]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        # Every other round backwards: what comes first is not always the same.
        for name in names if number % 2 else reversed(names):
            amount, took = _timed(ways[name], device)
            if number:
                rates[name].append(amount / took)
                seconds[name].append(took)
    return {
        name: {
            "rate": Spread.of(rates[name]),
            "seconds": Spread.of(seconds[name]),
            "ratio": Spread.of([one / other for one, other in zip(rates[name], rates[names[0]], strict=True)]),
        }
        for name in names
    }


def _timed(work: Callable[[], float], device: torch.device) -> tuple[float, float]:
    wait(device)
    start = clock(device)
    amount = work()
    wait(device)
    return amount, clock(device) - start


def write_results(path: Path, what: str, settings: Any, device: torch.device, found: Mapping[str, Any]) -> None:
    """Write figures with what they were measured on.

    Args:
        path: JSON file.
        what: the script.
        settings: a dataclass.
        device: computed on.
        found: figures; spreads anywhere in it.
    """
    content = {
        "what": what,
        "settings": asdict(settings),
        **surroundings(str(device)),
        **found,
    }
    write_atomically(path, json.dumps(content, indent=1, default=asdict) + "\n")
