"""Two runs' ``scores.rows.jsonl`` -> whether the one is better, question by question. Imports no torch.

Both runs answered the same questions, so the difference is judged on pairs: what is hard for both cancels out. A
figure that is a mean of rows, or of clusters whose rows are all right (MMBench's questions in all rotations), gets the
closed form of ``metrics.paired_difference``, and what it is the mean of is counted. Any other (POPE's F1, MME's sum of
subtasks) is aggregated anew by its benchmark without one block of clusters after another, 100 times for each run: from
a second (MME) to half a minute (SEED-Bench).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.jackknife import block_jackknife
from llava_teamlora.evaluation.metrics import Difference, mcnemar, paired_difference
from llava_teamlora.evaluation.row_logs import Run, read_run, read_run_like
from llava_teamlora.evaluation.score_files import ScoreFile, read_scores, told_apart
from llava_teamlora.evaluation.scoring import ROWS, file_sha256, rows_path
from llava_teamlora.evaluation.types import Benchmark, Sample, Scores

_Cell = tuple[str, str]
"""Kind and name of a figure."""
_TOTAL: _Cell = ("total", "total")
_Value = tuple[float, str]
"""A number and the cluster it belongs to."""
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
        wins: of the rows, or clusters all right, that the figure is the mean of: where the other run's is higher;
            None for a figure that is no such mean.
        losses: where it is lower, likewise.
        ties: the rest, likewise.
        mcnemar_p: two-sided and exact; None unless there are such counts, all of right and wrong.
    """

    name: str
    base: float
    other: float
    stderr: float | None
    interval: tuple[float, float] | None
    wins: int | None
    losses: int | None
    ties: int | None
    mcnemar_p: float | None

    @property
    def difference(self) -> float:
        """Other minus base."""
        return self.other - self.base


@dataclass(frozen=True)
class Comparison:
    """One benchmark, two runs; the total is the first of the lines.

    Attributes:
        benchmark: the name that the scores go by; both names where the runs were not measured alike.
        metric: what the total is.
        base: label of the base run.
        other: label of the other.
        questions: that both answered.
        lines: one a figure.
        alike: whether the two names are one: neither is ``[likelihood]``, say, and the other not.
    """

    benchmark: str
    metric: str
    base: str
    other: str
    questions: int
    lines: tuple[Line, ...]
    alike: bool = True


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
    for name in ours:
        file, *others_of_it = told_apart([files[name] for files in (ours, *theirs)])
        if any(one.server for one in (file, *others_of_it)):
            # No rows: the figures can be put side by side, and no more.
            runs = [Run(one, [], []) for one in (file, *others_of_it)]
            found += [_comparison(runs[0], run, {_TOTAL: _Measured(None, [])}) for run in runs[1:]]
        else:
            run = read_run(file)
            found += [_compare(run, read_run_like(run, one)) for one in others_of_it]
    return found


def _scores_of(argument: str) -> dict[str, ScoreFile]:
    """By benchmark; ``x.rows.jsonl`` stands for the ``x.json``, or the ``x``, beside it.

    Raises:
        UserError: two are of the same benchmark.
    """
    if argument.endswith(ROWS):
        bare = argument.removesuffix(ROWS)
        # As in read_scores: a path that is there may hold "=", and has no label then.
        whole = any(Path(path).is_file() for path in (bare, bare.partition("=")[2]))
        argument = bare if whole else f"{bare}.json"
    files = read_scores([argument])
    found: dict[str, ScoreFile] = {}
    for file in files:
        if found.setdefault(file.benchmark, file) is not file:
            raise UserError(
                f"{argument}: {file.path} and {found[file.benchmark].path} are both of {file.benchmark}; name one"
            )
    return found


@dataclass(frozen=True)
class _Pair:
    """A row, or a cluster, as part of a mean in both runs."""

    base: float
    other: float
    cluster: str


@dataclass(frozen=True)
class _Measured:
    """How a figure differs, and what it is the mean of in both runs; empty if it is no mean."""

    difference: Difference | None
    pairs: list[_Pair]


def _compare(base: Run, other: Run) -> Comparison:
    cells = [cell for cell in _cells(base) if cell in _cells(other)]
    measured = {cell: _by_pairs(_pairs(cell, base, other)) for cell in cells}
    unclear = [cell for cell, found in measured.items() if not found.pairs]
    if unclear:
        measured |= {cell: _Measured(found, []) for cell, found in _by_jackknife(unclear, base, other).items()}
    return _comparison(base, other, measured)


def _comparison(base: Run, other: Run, measured: Mapping[_Cell, _Measured]) -> Comparison:
    names = list(dict.fromkeys(run.file.content["name"] for run in (base, other)))
    return Comparison(
        benchmark=" against ".join(names),
        metric=base.file.content["metric"],
        base=base.file.label,
        other=other.file.label,
        questions=len(base.samples),
        lines=tuple(_line(cell, base, other, found) for cell, found in measured.items()),
        alike=len(names) == 1,
    )


def _cells(run: Run) -> dict[_Cell, dict[str, Any]]:
    """(kind, name) -> figure, in the table's order."""
    content = run.file.content
    return {_TOTAL: content["total"]} | {
        (kind, name): cell for kind in ("groups", "extra") for name, cell in content[kind].items()
    }


def _pairs(cell: _Cell, base: Run, other: Run) -> list[_Pair]:
    """What a figure is the mean of, by its value and its count in both runs; nothing if it is no such mean."""
    for ours, theirs in zip(_candidates(cell, base), _candidates(cell, other), strict=True):
        if _is_mean(ours, _cells(base)[cell]) and _is_mean(theirs, _cells(other)[cell]):
            return [_Pair(a, b, cluster) for (a, cluster), (b, _) in zip(ours, theirs, strict=True)]
    return []


def _candidates(cell: _Cell, run: Run) -> Iterator[list[_Value]]:
    """What a figure could be the mean of, as (value, cluster), in the same order of both runs."""
    kind, name = cell
    rows = list(zip(run.samples, run.verdicts, strict=True))
    measured = kind == "extra" and all(name in verdict.extra for verdict in run.verdicts)
    yield [(verdict.extra[name], sample.cluster) for sample, verdict in rows] if measured else []

    members: Callable[[Sample], bool] = (lambda _: True) if cell == _TOTAL else (lambda sample: sample.group == name)
    scores = [(verdict.score, sample.cluster) for sample, verdict in rows if members(sample)]
    yield scores
    worst: dict[str, float] = {}
    for score, cluster in scores:
        worst[cluster] = min(score, worst.get(cluster, score))
    yield [(score, cluster) for cluster, score in worst.items()]

    yield [(v.score, s.cluster) for s, v in rows if s.image is not None] if cell == _TOTAL else []
    yield [(verdict.score, sample.cluster) for sample, verdict in rows] if kind == "extra" else []


def _is_mean(values: Sequence[_Value], figure: Mapping[str, Any]) -> bool:
    # Count and unit too: what is no mean may happen to be the same (MME's points where answers come in pairs).
    if not len(values) == figure["n"] > 0 or figure.get("maximum", 100.0) != 100:
        return False
    return abs(math.fsum(value for value, _ in values) / len(values) - figure["value"]) < _CLOSE


def _by_pairs(pairs: list[_Pair]) -> _Measured:
    if not pairs:
        return _Measured(None, [])
    columns = [pair.base for pair in pairs], [pair.other for pair in pairs], [pair.cluster for pair in pairs]
    return _Measured(paired_difference(*columns), pairs)


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


def _line(cell: _Cell, base: Run, other: Run, measured: _Measured) -> Line:
    pairs, found = measured.pairs, measured.difference
    wins = sum(pair.other > pair.base for pair in pairs)
    losses = sum(pair.other < pair.base for pair in pairs)
    right_or_wrong = pairs and all({pair.base, pair.other} <= {0.0, 1.0} for pair in pairs)
    ours, theirs = _cells(base)[cell], _cells(other)[cell]
    maximum = ours.get("maximum", 100.0)
    interval = found.interval if found else None
    return Line(
        name=cell[1],
        base=ours["value"] * maximum,
        other=theirs["value"] * maximum,
        stderr=None if found is None or found.stderr is None else found.stderr * maximum,
        interval=None if interval is None else (interval[0] * maximum, interval[1] * maximum),
        wins=wins if pairs else None,
        losses=losses if pairs else None,
        ties=len(pairs) - wins - losses if pairs else None,
        mcnemar_p=mcnemar(wins, losses) if right_or_wrong else None,
    )
