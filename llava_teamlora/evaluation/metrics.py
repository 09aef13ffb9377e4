"""Means and their standard errors, in plain Python: a score needs no array library."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from llava_teamlora.evaluation.types import Sample, Score, Scores, Verdict


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
    values = [verdict.score for verdict in verdicts]
    clusters = [sample.cluster or sample.key for sample in samples]
    return Score(sum(values) / len(values), clustered_stderr(values, clusters), len(values))


def grouped_mean(samples: Sequence[Sample], verdicts: Sequence[Verdict], groups: Sequence[str]) -> Scores:
    """Means in total, per group in the given order (one without rows is left out) and per further measure."""
    rows = list(zip(samples, verdicts, strict=True))
    members = {group: [(s, v) for s, v in rows if s.group == group] for group in groups}
    scores = {
        group: mean_score([s for s, _ in found], [v for _, v in found]) for group, found in members.items() if found
    }
    extra = {
        name: mean_score(samples, [Verdict(v.parsed, v.extra[name]) for v in verdicts])
        for name in (verdicts[0].extra if verdicts else ())
    }
    return Scores(mean_score(samples, verdicts), scores, extra)
