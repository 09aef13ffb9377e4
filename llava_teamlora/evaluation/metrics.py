"""Means, their standard errors, and what tells two runs apart, in plain Python: a score needs no array library."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from llava_teamlora.evaluation.types import Sample, Score, Scores, Verdict

Z_95 = 1.959963984540054
"""Half the width of a 95 % interval, in standard errors of a normal distribution."""


@dataclass(frozen=True)
class Difference:
    """How much better another run is, with its uncertainty.

    Attributes:
        value: other minus base.
        stderr: of ``value``, paired and clustered; None when it cannot be known.
        n: rows.
    """

    value: float
    stderr: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, from the normal distribution."""
        return None if self.stderr is None else (self.value - Z_95 * self.stderr, self.value + Z_95 * self.stderr)


def clustered_stderr(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Standard error of a mean whose values are alike within clusters.

    With residuals e_i = x_i - mean and their sums u_g over cluster g: sqrt(G / (G - 1) * sum_g u_g^2) / n, the
    cluster-robust variance of a mean (Liang and Zeger 1986). With one value a cluster it is the usual s / sqrt(n).

    Args:
        values: one a row.
        clusters: the cluster of each row.

    Returns:
        The standard error, or None with fewer than two clusters.
    """
    mean = sum(values) / len(values)
    sums: dict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    count = len(sums)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * sum(u * u for u in sums.values())) / len(values)


def mean_score(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Score:
    """Mean of the rows' scores with its clustered standard error.

    Raises:
        ValueError: no rows.
    """
    if not samples:
        raise ValueError("no rows to score")
    return _mean([verdict.score for verdict in verdicts], _clusters(samples))


def _clusters(samples: Sequence[Sample]) -> list[str]:
    return [sample.cluster or sample.key for sample in samples]


def _mean(values: Sequence[float], clusters: Sequence[str]) -> Score:
    return Score(sum(values) / len(values), clustered_stderr(values, clusters), len(values))


def grouped_mean(samples: Sequence[Sample], verdicts: Sequence[Verdict], groups: Sequence[str]) -> Scores:
    """Means in total, per group in the given order (one without rows is left out) and per further measure."""
    clusters = _clusters(samples)
    members: dict[str, tuple[list[float], list[str]]] = {group: ([], []) for group in groups}
    for sample, verdict, cluster in zip(samples, verdicts, clusters, strict=True):
        if sample.group in members:
            members[sample.group][0].append(verdict.score)
            members[sample.group][1].append(cluster)
    extra = {
        name: _mean([verdict.extra[name] for verdict in verdicts], clusters)
        for name in (verdicts[0].extra if verdicts else ())
    }
    scores = {group: _mean(values, theirs) for group, (values, theirs) in members.items() if values}
    return Scores(mean_score(samples, verdicts), scores, extra)


def paired_difference(base: Sequence[float], other: Sequence[float], clusters: Sequence[str]) -> Difference:
    """Mean of ``other - base`` over the same rows, its standard error clustered as :func:`clustered_stderr` does.

    Raises:
        ValueError: no rows, or lengths differ.
    """
    if not base:
        raise ValueError("no rows to compare")
    differences = [b - a for a, b in zip(base, other, strict=True)]
    return Difference(sum(differences) / len(differences), clustered_stderr(differences, clusters), len(differences))


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p of McNemar's test: 2 P(X <= min(wins, losses)), X ~ Binomial(wins + losses, 1/2); at most 1.

    Rows that both runs got right or both wrong say nothing. The rows count as independent.
    """
    total, fewer = wins + losses, min(wins, losses)
    if 2 * fewer >= total:
        return 1.0
    # From the largest term down: C(n, i - 1) = C(n, i) * i / (n - i + 1). Logarithms, since 2**n overflows.
    largest = math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2)
    term, tail = 1.0, 0.0
    for i in range(fewer, -1, -1):
        tail += term
        term *= i / (total - i + 1)
        if term < tail * 1e-17:
            break
    return min(1.0, 2 * math.exp(largest) * tail)


def t_cdf_two_sided(t: float, df: int) -> float:
    """P(|T| <= t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    total = term if df > 1 else 0.0
    for j in range(2 + odd, df - 1, 2):
        term *= cosine * cosine * (j - 1) / j
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(confidence: float, df: int) -> float:
    """The t with P(|T| <= t) = confidence.

    Args:
        confidence: in (0, 1).
        df: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while t_cdf_two_sided(high, df) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf_two_sided(middle, df) < confidence else (low, middle)
    return high
