"""Runs -> rows of tables: those that differ in nothing but their seed are one row. Imports no torch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from llava_teamlora.cme.runs import Run
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.overview import AVERAGE, average_cell, is_partial
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.score_files import ScoreFile
from llava_teamlora.evaluation.tables import Cell, as_unit, mean_cell

METHOD_NAMES = {
    "prompt_tuning": "Prompt-Tuning",
    "ia3": "IA3",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "moslora": "MoSLoRA",
    "hydralora": "HydraLoRA",
    "moelora": "MoELoRA",
    "teamlora": "TeamLoRA",
    "full": "full fine-tuning",
    "projector": "projector alone",
}
"""In the order of Table 2."""
_ADAPTER = frozenset(
    "method r target_r num_experts num_virtual_tokens match_params train_interaction interaction_init".split()
)
"""Settings that make a row's method and size."""


@dataclass(frozen=True)
class Entry:
    """One row: the runs of one setting, one a seed.

    Attributes:
        label: unique among rows of one method, rank and base.
        runs: by seed.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Any of them: they differ in the seed alone."""
        return self.runs[0]

    @property
    def method(self) -> str:
        """A key of METHOD_NAMES, or a method that it does not know; ``untuned``."""
        return self.first.card.method if self.first.card else "untuned"

    @property
    def experts(self) -> int | None:
        """Number of experts; None without any."""
        return self.first.adapter.get("num_experts")

    @property
    def rank(self) -> int | None:
        """See ``Run.rank``."""
        return self.first.rank

    def rank_text(self) -> str:
        """``8``; ``34-35`` where some linears have one more; ``12→8`` of AdaLoRA."""
        if self.rank is None:
            return "-"
        if self.method == "adalora":
            return f"{self.rank}→{self.first.adapter['target_r']}"
        ranks = {self.rank, *(self.first.adapter.get("rank_pattern") or {}).values()}
        return "-".join(map(str, sorted({min(ranks), max(ranks)})))

    def percent(self) -> float | None:
        """Trained parameters, of the base's; None where an old ``run.yaml`` does not say how many these are."""
        base = self.first.results.get("base_parameters")
        return 100 * self.trained() / base if base else None

    def seconds(self) -> float:
        """Of training, the mean over the seeds."""
        return fmean(run.results["train_seconds"] for run in self.runs)

    def trained(self) -> int:
        """Number of trained parameters."""
        return self.first.results["trainable_parameters"]

    def cells(self) -> dict[str, Cell]:
        """By task, and the average where every run has all tasks."""
        each = [{name: task_cell(file) for name, file in run.files.items()} for run in self.runs]
        found = {
            name: mean_cell([cells[name] for cells in each if name in cells], len(each))
            for name in ELEVEN
            if any(name in cells for cells in each)
        }
        if not any(run.missing for run in self.runs):
            averages = [average_cell(run.files, cells, ELEVEN) for run, cells in zip(self.runs, each, strict=True)]
            found[AVERAGE] = mean_cell(averages, len(each))
        return found


def task_cell(file: ScoreFile, scores: Mapping[str, Any] | None = None) -> Cell:
    """A task's total, or that of one of its baselines; of a part of the questions it says so, and is not ranked."""
    notes = tuple(file.remarks)
    return as_unit((scores or file.content)["total"], notes, not is_partial(file))


def make_entries(runs: Sequence[Run]) -> tuple[Entry, ...]:
    """Rows in the order of Table 2, then by size.

    Raises:
        UserError: two runs are of one setting and one seed.
    """
    groups: dict[str, dict[Any, Run]] = defaultdict(dict)
    for run in runs:
        group = groups[json.dumps([run.label, run.settings()], sort_keys=True, default=str)]
        if run.seed in group:
            raise UserError(
                f"{run.path}: is of the same settings and the same seed ({run.seed}) as {group[run.seed].path}; leave "
                "one of them out, or name them apart: LABEL=PATH"
            )
        group[run.seed] = run
    entries = [Entry("", tuple(group.values())) for group in groups.values()]
    entries = [replace(entry, label=_label(entry, entries)) for entry in entries]
    order = list(METHOD_NAMES)
    places = {entry.method: order.index(entry.method) if entry.method in order else len(order) for entry in entries}
    return _told_apart(sorted(entries, key=lambda entry: (places[entry.method], entry.trained())))


def _label(entry: Entry, entries: Sequence[Entry]) -> str:
    """As the user calls it, with the method where a folder of several methods' runs bears the name; else the method."""
    label, method = entry.first.label, method_name(entry.method)
    several = len({other.method for other in entries if other.first.label == label}) > 1
    return (f"{label}: {method}" if several else label) if label else method


def method_name(method: str) -> str:
    """As the paper calls it."""
    return METHOD_NAMES.get(method, method)


def _told_apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Rows that method, rank and experts do not tell apart bear what else they differ in."""
    alike: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        alike[entry.label, entry.method, entry.rank_text(), entry.experts, entry.first.base].append(entry)
    named = {}
    for group in alike.values():
        differing = differences(group)
        for place, entry in enumerate(group):
            told = [f"{name} {short(values[place])}" for name, values in differing.items()]
            named[id(entry)] = replace(entry, label=f"{entry.label} ({', '.join(told)})") if told else entry
    return tuple(named[id(entry)] for entry in entries)


def differences(entries: Sequence[Entry], beside: frozenset[str] = frozenset()) -> dict[str, list[Any]]:
    """Settings that are not the same in all rows: name -> value in each, None where it was not said.

    Args:
        entries: rows.
        beside: settings to leave out.
    """
    settings = [entry.first.settings() for entry in entries]
    names = dict.fromkeys(name for each in settings for name in each if name not in beside)
    found = {name: [each.get(name) for each in settings] for name in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def told_differences(entries: Sequence[Entry]) -> list[str]:
    """Notes of what rows differ in beside method and size: what a reader must know to compare them."""
    notes = []
    for name, values in differences(entries, _ADAPTER).items():
        rows: dict[str, list[str]] = defaultdict(list)
        for entry, value in zip(entries, values, strict=True):
            rows[short(value)].append(f"{entry.label} {entry.rank_text()}".removesuffix(" -"))
        common = max(rows, key=lambda value: len(rows[value]))
        others = [f"{value} of {', '.join(labels)}" for value, labels in rows.items() if value != common]
        notes.append(f"{name} is {common}, but {'; '.join(others)}")
    return notes


def short(value: Any) -> str:
    """Digests by their beginning."""
    if value is None:
        return "not set"
    text = str(value)
    return f"{text[:8]}…" if len(text) == 64 else text
