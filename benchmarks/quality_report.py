"""Cells of the quality benchmark -> the chosen learning rates, statistics, markdown and JSON.

Intervals are t intervals over the final seeds. A seed brings its own training subset, order, initialisation and test
questions, so an interval covers all of these, for this base, these tasks and this amount of training; nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from quality_cell import UNTUNED, Cell, Settings, data_folder, rate
from quality_tasks import TASKS, floors

from llava_teamlora.evaluation.metrics import t_quantile
from llava_teamlora.files import write_atomically

REFERENCE = "lora"


@dataclass(frozen=True)
class Choice:
    """A method's learning rate.

    Attributes:
        tried: indices of the rates to try, by now.
        means: validation mean of each rate all of whose selection seeds have a result, in %.
        index: of the best; the smaller of equals. None without any.
        settled: nothing is left to try.
        at_edge: the best is the lowest or highest that was tried.
    """

    tried: tuple[int, ...]
    means: dict[int, float]
    index: int | None
    settled: bool
    at_edge: bool


def choose(out: Path, settings: Settings, method: str) -> Choice:
    """Choose on validation alone, in the same steps for every method.

    First the grid; while the best lies at its edge, one more rate beyond it, a few times; then the two rates half a
    step beside the best.
    """
    tried = settings.grid()
    for extension in range(settings.extensions + 1):
        choice = _best(out, settings, method, tried)
        best = choice.index
        if not choice.settled or best is None:
            return choice
        if not choice.at_edge or extension == settings.extensions:
            return _best(out, settings, method, tuple(sorted({*tried, best - 1, best + 1})))
        tried = (best - 2, *tried) if best == min(tried) else (*tried, best + 2)
    raise AssertionError("unreachable")


def _best(out: Path, settings: Settings, method: str, tried: tuple[int, ...]) -> Choice:
    """The best of these rates as far as there are results."""
    means: dict[int, float] = {}
    settled = True
    for index in tried:
        cells = [Cell(method, "validation", seed, index) for seed in settings.selection_seeds]
        found = [result["mean"] for cell in cells if (result := cell.result(out)) is not None]
        settled &= len(found) + sum(cell.failed(out) for cell in cells) == len(cells)
        if len(found) == len(cells):
            means[index] = fmean(found)
    best = min(means, key=lambda index: (-means[index], index)) if means else None
    return Choice(tried, means, best, settled, best in (min(tried), max(tried)))


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % t interval (mean - half, mean + half); half is None with fewer than two values."""

    mean: float
    half: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Interval:
        """Of independent values."""
        n = len(values)
        half = t_quantile(0.95, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else None
        return Interval(fmean(values), half, n)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f" ± {self.half:.1f}" if self.half is not None else "")

    def difference(self) -> str:
        """As a signed difference with the ends of its interval."""
        if self.half is None:
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} [{self.mean - self.half:+.1f}, {self.mean + self.half:+.1f}]"


def collect(out: Path, settings: Settings) -> dict[str, Any]:
    """Everything there is, as plain types: what the JSON holds."""
    from llava_teamlora.run_card import library_versions

    paths = sorted((out / "cells").glob("*/*/result.json"))
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    errors = {
        str(path.parent.relative_to(out / "cells")): path.read_text(encoding="utf-8").strip().splitlines()[-1]
        for path in sorted((out / "cells").glob("*/*/error.txt"))
    }
    seeds = sorted({cell["seed"] for cell in cells if cell["split"] == "test"})
    names = list(dict.fromkeys(cell["method"] for cell in cells if cell["method"] != UNTUNED))
    chosen = {name: choose(out, settings, name) for name in names}
    # Cells of a rate that was chosen before an earlier, failed one was repeated do not count.
    final = {
        name: {
            cell["seed"]: cell
            for cell in cells
            if (cell["method"], cell["split"]) == (name, "test")
            and (name == UNTUNED or cell["index"] == chosen[name].index)
        }
        for name in (*names, UNTUNED)
    }
    reference = final.get(REFERENCE, {})
    return {
        "what": "benchmarks/quality.py",
        "settings": asdict(settings),
        "versions": {name: version for name, version in library_versions().items() if name != "commit"},
        "commits": sorted({cell["commit"] for cell in cells if cell["commit"]}),
        "seeds": seeds,
        "floors": _mean_floors([floors(data_folder(out, seed)) for seed in seeds]),
        "chosen": {name: _choice(choice) for name, choice in chosen.items()},
        "summary": {name: _summary(own, reference, name) for name, own in final.items() if own},
        "missing": errors,
        "cells": cells,
    }


def _mean_floors(by_seed: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    if not by_seed:
        return {}
    return {name: {task: fmean(f[name][task] for f in by_seed) for task in TASKS} for name in by_seed[0]}


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "lr": None if choice.index is None else rate(choice.index),
        "validation": {f"{rate(index):g}": round(choice.means[index], 2) for index in sorted(choice.means)},
        "tried": [rate(index) for index in choice.tried],
        "at_edge": choice.at_edge,
        "settled": choice.settled,
    }


def _summary(own: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]], name: str) -> dict[str, Any]:
    both = sorted(own.keys() & reference.keys()) if name not in (REFERENCE, UNTUNED) else []
    seconds = [cell["train_seconds"] for cell in own.values() if cell["train_seconds"] is not None]
    difference = None
    if both:
        difference = {
            "mean": asdict(Interval.of([own[seed]["mean"] - reference[seed]["mean"] for seed in both])),
            **{
                task: asdict(Interval.of([own[s]["scores"][task] - reference[s]["scores"][task] for s in both]))
                for task in TASKS
            },
        }
    return {
        "trainable_parameters": next(iter(own.values()))["trainable_parameters"],
        "train_seconds": round(median(seconds), 1) if seconds else None,
        "mean": asdict(Interval.of([cell["mean"] for cell in own.values()])),
        **{task: asdict(Interval.of([cell["scores"][task] for cell in own.values()])) for task in TASKS},
        f"minus {REFERENCE}": difference,
    }


def markdown(found: dict[str, Any]) -> str:
    """The tables."""
    summary = found["summary"]
    ranked = sorted((n for n in summary if n != UNTUNED), key=lambda n: -summary[n]["mean"]["mean"])
    lines = [
        f"| method | trainable | lr | mean | minus {REFERENCE}, paired | n | train s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ranked:
        row, choice = summary[name], found["chosen"][name]
        versus = row[f"minus {REFERENCE}"]
        difference = Interval(**versus["mean"]).difference() if versus else "–"
        mark = " (edge)" if choice["at_edge"] else ""
        lines.append(
            f"| {name} | {row['trainable_parameters']:,} | {choice['lr']:g}{mark} | {Interval(**row['mean'])} | "
            f"{difference} | {row['mean']['n']} | {row['train_seconds']} |"
        )
    lines += ["", f"| answers by | mean | {' | '.join(TASKS)} |", "|---|" + "---:|" * (len(TASKS) + 1)]
    for name in [*ranked, *([UNTUNED] if UNTUNED in summary else [])]:
        shown = (str(Interval(**summary[name][column])) for column in ("mean", *TASKS))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    for name, by_task in found["floors"].items():
        shown = (f"{value:.1f}" for value in (fmean(by_task.values()), *by_task.values()))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    rates = sorted({lr for choice in found["chosen"].values() for lr in choice["validation"]}, key=float)
    lines += ["", f"| validation mean at lr | {' | '.join(rates)} |", "|---|" + "---:|" * len(rates)]
    for name in ranked:
        means = found["chosen"][name]["validation"]
        best = f"{found['chosen'][name]['lr']:g}"
        cells = (
            ("" if lr not in means else f"**{means[lr]:.1f}**" if lr == best else f"{means[lr]:.1f}") for lr in rates
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\nMissing: {cell}: {reason}" for cell, reason in found["missing"].items()]
    return "\n".join(lines) + "\n"


def write_report(out: Path, settings: Settings, target: Path) -> str:
    """Write the JSON and ``quality.md``; returns the markdown.

    Args:
        out: the benchmark's folder.
        settings: its settings.
        target: the JSON's path.
    """
    found = collect(out, settings)
    cells = ",\n  ".join(json.dumps(cell) for cell in found.pop("cells"))
    head = json.dumps(found, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_atomically(target, f'{head},\n "cells": [\n  {cells}\n ]\n}}\n')
    text = markdown({**found, "cells": []})
    write_atomically(out / "quality.md", text)
    return text
