"""What came out of a sweep: a row for all cells that differ in nothing but their seed, with 95 % intervals.

In: a sweep's standings. Out: :class:`Results`, and the table made of them. An interval is a t interval over the seeds;
what a seed decides (order, initialisation, dropout, …) is what it covers, nothing else.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from llava_teamlora.evaluation.overview import AVERAGE
from llava_teamlora.evaluation.paper import HEADS
from llava_teamlora.evaluation.score_files import ScoreFile
from llava_teamlora.evaluation.tables import Cell, Column, Report, Row, half_width, mean_cell, ranked
from llava_teamlora.run_card import read_run_card
from llava_teamlora.sweep.evaluation import Evaluation
from llava_teamlora.sweep.jobs import Job
from llava_teamlora.sweep.state import DONE, Standing

COSTS = {"trainable_parameters": "trained", "train_seconds": "train s", "peak_mem_mib": "MiB"}
Values = Mapping[str, Mapping[str, float]]
"""Figures of each done cell, by its name."""


@dataclass(frozen=True)
class Group:
    """The cells of one label.

    Attributes:
        label: of them all.
        untuned: whether nothing was trained.
        axes: what they have in common.
        cells: names of those that are done.
        of: how many there are.
        values: one a done cell, by figure; a figure that not every one of them has is missing.
    """

    label: str
    untuned: bool
    axes: Mapping[str, Any]
    cells: tuple[str, ...]
    of: int
    values: Mapping[str, tuple[float, ...]]

    def cell(self, name: str) -> Cell | None:
        """Mean over the seeds of a figure."""
        values = self.values.get(name)
        return mean_cell([Cell(value) for value in values], len(values)) if values else None


@dataclass(frozen=True)
class Results:
    """All groups, the benchmarks they have figures of (the average last), and what a reader must know."""

    benchmarks: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def gather(standings: Sequence[Standing], evaluation: Evaluation | None) -> Results:
    """Read all that is done."""
    done = [standing.job for standing in standings if standing.status == DONE]
    scores = {job.name: evaluation.scores(job.evaluation) if evaluation else {} for job in done}
    values = {job.name: _values(job, scores[job.name], evaluation) for job in done}
    labels: dict[str, list[Job]] = defaultdict(list)
    for standing in standings:
        labels[standing.job.label].append(standing.job)
    names = evaluation.benchmarks if evaluation else ()
    benchmarks = (*names, AVERAGE) if len(names) > 1 else names
    groups = tuple(_group(label, jobs, values, (*COSTS, *benchmarks)) for label, jobs in labels.items())
    return Results(benchmarks, groups, (*_about_questions(scores, names), *_about_data(done)))


def _values(job: Job, scores: Mapping[str, ScoreFile], evaluation: Evaluation | None) -> dict[str, float]:
    results = job.results()
    found = {name: float(results[name]) for name in COSTS if isinstance(results.get(name), (int, float))}
    totals = {name: file.content["total"] for name, file in scores.items()}
    found |= {name: total["value"] * total.get("maximum", 100.0) for name, total in totals.items()}
    if evaluation and len(totals) == len(evaluation.benchmarks):
        found[AVERAGE] = 100 * fmean(total["value"] for total in totals.values())
    return found


def _group(label: str, jobs: Sequence[Job], values: Values, names: Iterable[str]) -> Group:
    done = [job.name for job in jobs if job.name in values]
    common = {axis: value for axis, value in jobs[0].axes.items() if all(job.axes[axis] == value for job in jobs)}
    known = [name for name in names if done and all(name in values[cell] for cell in done)]
    figures = {name: tuple(values[cell][name] for cell in done) for name in known}
    return Group(label, not jobs[0].train, common, tuple(done), len(jobs), figures)


def _about_questions(scores: Mapping[str, Mapping[str, ScoreFile]], names: Sequence[str]) -> list[str]:
    """Whether the benchmarks' figures are of all questions, and of the same ones."""
    notes = {
        f"{name}: {remark}" for files in scores.values() for name, file in files.items() for remark in file.remarks
    }
    for name in names:
        editions = {files[name].data_sha256 for files in scores.values() if name in files}
        if len(editions) > 1:
            notes.add(f"{name}: not all cells were asked the same questions (data_sha256 differ); not comparable")
    return sorted(notes)


def _about_data(done: Sequence[Job]) -> list[str]:
    """Whether a file of training data was another for some cells."""
    contents: dict[str, set[str]] = defaultdict(set)
    for job in done:
        if job.train:
            card = read_run_card(job.folder)
            contents[str(card.arguments.get("data_path"))].add(str(card.identity.get("data_sha256")))
    changed = [path for path, digests in contents.items() if len(digests) > 1]
    return [f"{path}: its content was changed between cells; they are not comparable" for path in changed]


def make_table(results: Results, title: str) -> Report:
    """The table: costs as facts, a column a benchmark, the best bold; the untuned base below."""
    columns = tuple(
        Column(name, "average" if name == AVERAGE else HEADS.get(name, name), decimals=1) for name in results.benchmarks
    )
    tuned = [_row(group, results.benchmarks) for group in results.groups if not group.untuned]
    untuned = [_row(group, results.benchmarks) for group in results.groups if group.untuned]
    notes = list(results.notes)
    if any(len(group.cells) > 1 for group in results.groups):
        notes.insert(0, "± is half of a 95 % t interval over the seeds; costs are means")
    if AVERAGE in results.benchmarks:
        notes.insert(0, "average: mean of the benchmarks' shares of their perfect scores, in percent")
    return Report(
        title,
        columns,
        ranked(tuned, columns),
        baselines=tuple(untuned),
        notes=tuple(notes),
        head="cell",
        facts=("done", *COSTS.values()),
        intervals=True,
    )


def _row(group: Group, benchmarks: Sequence[str]) -> Row:
    costs = [group.cell(name) for name in COSTS]
    facts = (f"{len(group.cells)}/{group.of}", *(f"{cost.value:,.0f}" if cost else "-" for cost in costs))
    return Row(group.label, tuple(group.cell(name) for name in benchmarks), facts=facts)


def as_json(results: Results) -> str:
    """For programs: every cell's figures, and means with half the width of their 95 % intervals."""
    groups = []
    for group in results.groups:
        cells = {name: group.cell(name) for name in group.values}
        means = {name: {"mean": cell.value, "ci95": half_width(cell)} for name, cell in cells.items() if cell}
        groups.append({**asdict(group), "means": means})
    content = {"benchmarks": results.benchmarks, "groups": groups, "notes": results.notes}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
