"""The few types that benchmarks, runner, scoring and report pass around. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark.

    Attributes:
        key: unique in the benchmark; what predictions are joined on.
        question_id: the benchmark's own id, as LLaVA's answers files carry it; need not be unique.
        prompt: the human turn's text, without any image marker.
        targets: accepted answers, as ``Benchmark.parse`` would give them.
        image: picture file; None for a text-only question.
        group: the sub-score it counts towards.
        cluster: samples of one cluster (a picture) are not independent; standard errors know it.
        metadata: anything else a benchmark wants to keep.
    """

    key: str
    question_id: int | str
    prompt: str
    targets: tuple[str, ...]
    image: Path | None = None
    group: str = ""
    cluster: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer, as it stands in an answers file.

    Attributes:
        key: the sample's.
        text: what the model said.
        where: ``file, line n``, for messages.
        prompt: the prompt it answers, or None if the file does not say.
    """

    key: str
    text: str
    where: str
    prompt: str | None = None


@dataclass(frozen=True)
class Verdict:
    """One scored row.

    Attributes:
        parsed: the answer as it was understood.
        score: 0 to 1.
        extra: by further measures, 0 to 1 each; the same names on every row of a benchmark.
    """

    parsed: str
    score: float
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A mean with its uncertainty.

    Attributes:
        value: 0 to 1.
        stderr: standard error, clustered; None when it cannot be known (fewer than two clusters).
        n: rows.
    """

    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Scores:
    """All of one set of answers: in total, per group in the benchmark's order, and by further measures."""

    total: Score
    groups: dict[str, Score]
    extra: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """Answers that need no model, and how they are made."""

    how: str
    answers: dict[str, str]


class Benchmark(Protocol):
    """One benchmark is one file: load -> prompt -> parse -> score. A new one is also one line in BENCHMARKS.

    Attributes:
        name: as on the command line.
        summary: one line for ``evaluate list``.
        metric: what the total is.
        version: raised whenever a score could change.
        max_new_tokens: default length of an answer.
        groups: order of the sub-scores.
    """

    name: str
    summary: str
    metric: str
    version: int
    max_new_tokens: int
    groups: tuple[str, ...]

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """All samples, in the benchmark's order.

        Args:
            data_root: folder of the official files; None takes the benchmark's own default.
        """
        ...

    def judge(self, sample: Sample, text: str) -> Verdict:
        """Parse and score one answer."""
        ...

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Total and sub-scores."""
        ...

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Answers per sample key that no model is needed for; empty where there is none."""
        ...
