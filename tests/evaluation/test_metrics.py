"""Means and standard errors against plain loops and numbers worked out by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from llava_teamlora.evaluation.metrics import (
    Z_95,
    clustered_stderr,
    grouped_mean,
    mcnemar,
    mean_score,
    paired_difference,
)
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


def test_paired_difference_by_hand() -> None:
    # Differences 1, 0 | 0, -1 in clusters a | b: mean 0, residual sums 1 and -1: sqrt(2/1 * (1 + 1)) / 4 = 1/2
    found = paired_difference([0, 1, 1, 1], [1, 1, 1, 0], "aabb")
    assert (found.value, found.stderr, found.n) == (0.0, pytest.approx(0.5), 4)
    assert found.interval == pytest.approx((-Z_95 / 2, Z_95 / 2))
    assert statistics.NormalDist().cdf(Z_95) == pytest.approx(0.975, abs=1e-12)


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    rng = random.Random(0)
    base = [float(rng.random() < 0.5) for _ in range(500)]
    other = [1.0 if rng.random() < 0.1 else value for value in base]
    clusters = [str(i) for i in range(500)]
    found = paired_difference(base, other, clusters)
    alone = [clustered_stderr(values, clusters) or 0 for values in (base, other)]
    assert found.value == pytest.approx(sum(other) / 500 - sum(base) / 500)
    # Var(d) = (share of pairs that differ) - mean^2, as d is 0 or 1.
    assert found.stderr == pytest.approx(math.sqrt(found.value * (1 - found.value) / 499))
    assert (found.stderr or 1) < 0.5 * math.hypot(*alone)


def test_paired_difference_of_one_cluster_or_none() -> None:
    found = paired_difference([0, 1], [1, 1], "aa")
    assert (found.value, found.stderr, found.interval) == (0.5, None, None)
    with pytest.raises(ValueError, match="no rows"):
        paired_difference([], [], [])
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1], [1, 1], "ab")


def test_mcnemar_by_hand() -> None:
    # 1 of 5: 2 * (C(5,0) + C(5,1)) / 2^5 = 12 / 32; 0 of 6: 2 / 64
    assert mcnemar(4, 1) == mcnemar(1, 4) == pytest.approx(0.375)
    assert mcnemar(6, 0) == pytest.approx(1 / 32)
    assert mcnemar(0, 0) == mcnemar(3, 3) == mcnemar(3, 4) == 1.0


def test_mcnemar_against_all_sequences_and_exact_sums() -> None:
    for total in range(11):
        for wins in range(total + 1):
            # All 2^n fair outcomes: how many are at least as lopsided?
            lopsided = sum(abs(2 * bin(coins).count("1") - total) >= abs(2 * wins - total) for coins in range(2**total))
            assert mcnemar(wins, total - wins) == pytest.approx(lopsided / 2**total, rel=1e-12)
    exact = 2 * sum(math.comb(2000, i) for i in range(901)) / 2**2000
    assert mcnemar(1100, 900) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(300_000, 100_000) == 0.0  # below the smallest float, and no overflow
