"""Means and standard errors against plain loops and numbers worked out by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from llava_teamlora.evaluation.metrics import clustered_stderr, grouped_mean, mean_score
from llava_teamlora.evaluation.types import Sample, Verdict


def rows(values: list[float], clusters: str, groups: str) -> tuple[list[Sample], list[Verdict]]:
    samples = [
        Sample(f"k{i}", i, "?", ("yes",), group=g, cluster=c)
        for i, (c, g) in enumerate(zip(clusters, groups, strict=True))
    ]
    return samples, [Verdict("", value) for value in values]


def test_stderr_by_hand() -> None:
    # Mean 1/2; residuals of cluster a: 1/2 + 1/2, of b: -1/2 - 1/2. sqrt(2/1 * (1 + 1)) / 4 = 1/2
    assert clustered_stderr([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    # Residuals cancel in each cluster.
    assert clustered_stderr([1, 0, 1, 0], ["a", "a", "b", "b"]) == 0.0


def test_stderr_without_clusters_is_the_usual_one() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(200)]
    expected = statistics.stdev(values) / math.sqrt(200)
    assert clustered_stderr(values, [str(i) for i in range(200)]) == pytest.approx(expected, rel=1e-12)


def test_stderr_against_a_double_loop() -> None:
    rng = random.Random(1)
    clusters = [str(rng.randrange(17)) for _ in range(150)]
    lean = {c: rng.random() for c in sorted(set(clusters))}
    values = [float(rng.random() < lean[c]) for c in clusters]
    mean = sum(values) / len(values)
    total = 0.0
    for x, a in zip(values, clusters, strict=True):
        for y, b in zip(values, clusters, strict=True):
            if a == b:
                total += (x - mean) * (y - mean)
    count = len(lean)
    expected = math.sqrt(total * count / (count - 1)) / len(values)
    assert clustered_stderr(values, clusters) == pytest.approx(expected, rel=1e-12)


def test_one_cluster_has_no_stderr() -> None:
    assert clustered_stderr([1, 0], ["a", "a"]) is None


def test_grouped_mean_by_hand() -> None:
    samples, verdicts = rows([1, 1, 0, 1], "aabb", "xyxy")
    scores = grouped_mean(samples, verdicts, ("y", "x", "absent"))
    assert list(scores.groups) == ["y", "x"]
    assert (scores.total.value, scores.total.n) == (0.75, 4)
    # Residuals 1/4 + 1/4 and -3/4 + 1/4: sqrt(2 * (1/4 + 1/4)) / 4 = 1/4
    assert scores.total.stderr == pytest.approx(0.25)
    assert (scores.groups["x"].value, scores.groups["y"].value) == (0.5, 1.0)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        mean_score([], [])
