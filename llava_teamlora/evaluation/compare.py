"""Two runs' ``scores.rows.jsonl`` -> whether the one is better, question by question. Imports no torch.

Both runs answered the same questions, so the difference is judged on pairs: what is hard for both cancels out. A
figure that is the mean of its rows gets the closed form of ``metrics.paired_difference``. Any other (POPE's F1, MME's
sum of subtasks, MMBench's circular accuracy) is aggregated anew by its benchmark without one block of clusters after
another, 100 times for each run: from a second (MME) to half a minute (SEED-Bench).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.jackknife import block_jackknife
from llava_teamlora.evaluation.metrics import Difference, mcnemar, paired_difference
from llava_teamlora.evaluation.row_logs import Run, read_run, read_run_like
from llava_teamlora.evaluation.score_files import ScoreFile, read_scores
from llava_teamlora.evaluation.scoring import file_sha256, rows_path
from llava_teamlora.evaluation.types import Benchmark, Scores

_ROWS = ".rows.jsonl"
_Cell = tuple[str, str]
"""Kind and name of a figure."""
_TOTAL: _Cell = ("total", "total")
_CLOSE = 1e-9


@dataclass(frozen=True)
class Line:
    """One figure of both runs, in the official tool's unit (``total``, a group or a further measure).

    Attributes:
        name: of the figure.
        base: its value for the base run.
        other: for the other run.
        stderr: of other - base, paired and clustered; None where it cannot be known.
        interval: 95 %, likewise.
        wins: rows that the other run does better.
        losses: rows that it does worse.
        ties: the rest.
        mcnemar_p: two-sided and exact; None unless every row is right or wrong.
    """

    name: str
    base: float
    other: float
    stderr: float | None
    interval: tuple[float, float] | None
    wins: int
    losses: int
    ties: int
    mcnemar_p: float | None

    @property
    def difference(self) -> float:
        """Other minus base."""
        return self.other - self.base


@dataclass(frozen=True)
class Comparison:
    """One benchmark, two runs; the total is the first of the lines."""

    benchmark: str
    metric: str
    base: str
    other: str
    questions: int
    lines: tuple[Line, ...]


def compare(base: str, others: Sequence[str]) -> list[Comparison]:
    """Compare runs with a base.

    Args:
        base: ``[LABEL=]PATH`` of a scores.json, its rows, or a folder with one or more of them.
        others: likewise, of the same benchmarks.

    Raises:
        UserError: a file is missing or malformed, or the runs are not of the same benchmarks, versions and questions.
    """
    ours, *theirs = [_scores_of(argument) for argument in (base, *others)]
    for argument, files in zip(others, theirs, strict=True):
        if files.keys() != ours.keys():
            raise UserError(
                f"{argument}: has {', '.join(files)}, but {base} has {', '.join(ours)}; "
                "give scores of the same benchmarks"
            )
    found = []
    for name, file in ours.items():
        others_of_it = [files[name] for files in theirs]
        if any(one.server for one in (file, *others_of_it)):
            # No rows: the figures can be put side by side, and no more.
            runs = [Run(one, [], []) for one in (file, *others_of_it)]
            found += [_comparison(runs[0], run, {_TOTAL: None}) for run in runs[1:]]
        else:
            run = read_run(file)
            found += [_compare(run, read_run_like(run, one)) for one in others_of_it]
    return found


def _scores_of(argument: str) -> dict[str, ScoreFile]:
    """By benchmark; ``x/scores.rows.jsonl`` stands for ``x/scores.json``.

    Raises:
        UserError: two are of the same benchmark.
    """
    files = read_scores([argument.removesuffix(_ROWS) + ".json" if argument.endswith(_ROWS) else argument])
    found: dict[str, ScoreFile] = {}
    for file in files:
        if found.setdefault(file.benchmark, file) is not file:
            raise UserError(
                f"{argument}: {file.path} and {found[file.benchmark].path} are both of {file.benchmark}; name one"
            )
    return found


def _compare(base: Run, other: Run) -> Comparison:
    cells = [cell for cell in _cells(base) if cell in _cells(other)]
    measured = {cell: _by_rows(cell, base, other) for cell in cells}
    unclear = [cell for cell, difference in measured.items() if difference is None]
    measured |= _by_jackknife(unclear, base, other) if unclear else {}
    return _comparison(base, other, measured)


def _comparison(base: Run, other: Run, measured: Mapping[_Cell, Difference | None]) -> Comparison:
    return Comparison(
        benchmark=base.file.content["name"],
        metric=base.file.content["metric"],
        base=base.file.label,
        other=other.file.label,
        questions=len(base.samples),
        lines=tuple(_line(cell, base, other, difference) for cell, difference in measured.items()),
    )


def _cells(run: Run) -> dict[_Cell, dict[str, Any]]:
    """(kind, name) -> figure, in the table's order."""
    content = run.file.content
    return {_TOTAL: content["total"]} | {
        (kind, name): cell for kind in ("groups", "extra") for name, cell in content[kind].items()
    }


def _values(cell: _Cell, run: Run) -> list[float | None]:
    """What each row adds to a figure, if it is a mean; None where the row has no part in it."""
    kind, name = cell
    if kind == "extra":
        return [verdict.extra.get(name) for verdict in run.verdicts]
    return [
        verdict.score if kind == "total" or sample.group == name else None
        for sample, verdict in zip(run.samples, run.verdicts, strict=True)
    ]


def _by_rows(cell: _Cell, base: Run, other: Run) -> Difference | None:
    """The difference of a figure that is the mean of its rows in both runs; None of any other."""
    parts = []
    for run in (base, other):
        rows = [(v, s.cluster) for v, s in zip(_values(cell, run), run.samples, strict=True) if v is not None]
        values, figure = [value for value, _ in rows], _cells(run)[cell]
        if not rows or abs(sum(values) / len(values) - figure["value"]) > _CLOSE:
            return None
        parts.append((values, [cluster for _, cluster in rows]))
    (ours, clusters), (theirs, _) = parts
    return paired_difference(ours, theirs, clusters) if len(ours) == len(theirs) else None


def _by_jackknife(names: Sequence[_Cell], base: Run, other: Run) -> dict[_Cell, Difference]:
    """The differences of figures that only their benchmark can aggregate.

    Raises:
        UserError: the rows do not give the scores beside them.
    """
    benchmark = _benchmark(base.file), _benchmark(other.file)
    rows = range(len(base.samples))

    def differences(kept: Sequence[int]) -> list[float]:
        try:
            ours, theirs = (_aggregate(bench, run, kept) for bench, run in zip(benchmark, (base, other), strict=True))
        except UserError:
            if len(kept) == len(rows):
                raise
            ours = theirs = {}
        # A part without any row of a group, or without any row that counts, has no figure.
        return [theirs.get(name, math.nan) - ours.get(name, math.nan) for name in names]

    whole = differences(rows)
    for name, value in zip(names, whole, strict=True):
        if not abs(value - (_cells(other)[name]["value"] - _cells(base)[name]["value"])) < _CLOSE:
            raise UserError(
                f"{rows_path(other.file.path)}, {rows_path(base.file.path)}: do not give the {name[1]} in the "
                "scores beside them; score both anew"
            )
    errors = block_jackknife([sample.cluster for sample in base.samples], differences)
    errors = [None] * len(names) if errors is None else [None if math.isnan(error) else error for error in errors]
    return {name: Difference(v, e, len(rows)) for name, v, e in zip(names, whole, errors, strict=True)}


def _benchmark(file: ScoreFile) -> Benchmark:
    """The benchmark as it scored this file, with the grades if a judge gave any.

    Raises:
        UserError: the grades are gone or not the same.
    """
    benchmark, grades = get_benchmark(file.benchmark), file.content.get("grades")
    if grades is None:
        return benchmark
    path = Path(grades["path"])
    if not path.is_file() or file_sha256(path) != grades["sha256"]:
        raise UserError(f"{path}: the grades that {file.path} was scored with are no longer there; score it anew")
    return benchmark.with_grades(path)


def _aggregate(benchmark: Benchmark, run: Run, kept: Sequence[int]) -> dict[_Cell, float]:
    scores: Scores = benchmark.aggregate([run.samples[i] for i in kept], [run.verdicts[i] for i in kept])
    found = {_TOTAL: scores.total.value}
    found |= {("groups", name): score.value for name, score in scores.groups.items()}
    return found | {("extra", name): score.value for name, score in scores.extra.items()}


def _line(cell: _Cell, base: Run, other: Run, found: Difference | None) -> Line:
    both = zip(_values(cell, base), _values(cell, other), strict=True)
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    wins = sum(b > a for a, b in pairs)
    losses = sum(b < a for a, b in pairs)
    ours, theirs = _cells(base)[cell], _cells(other)[cell]
    maximum = ours.get("maximum", 100.0)
    interval = found.interval if found else None
    return Line(
        name=cell[1],
        base=ours["value"] * maximum,
        other=theirs["value"] * maximum,
        stderr=None if found is None or found.stderr is None else found.stderr * maximum,
        interval=None if interval is None else (interval[0] * maximum, interval[1] * maximum),
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
        mcnemar_p=mcnemar(wins, losses) if pairs and all({a, b} <= {0.0, 1.0} for a, b in pairs) else None,
    )
