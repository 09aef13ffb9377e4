"""The jackknife against the formula of a mean, by hand, and where it cannot be known."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from llava_teamlora.evaluation.jackknife import jackknife_stderr
from llava_teamlora.evaluation.metrics import clustered_stderr


def test_of_a_mean_it_is_the_usual_one() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(50)]
    found = jackknife_stderr([(value, 1) for value in values], lambda sums: sums[0] / sums[1])
    assert found == pytest.approx(statistics.stdev(values) / math.sqrt(50))
    # Two rows a cluster: what clustered_stderr says of the rows.
    pairs = list(zip(values[::2], values[1::2], strict=True))
    found = jackknife_stderr([(a + b, 2) for a, b in pairs], lambda sums: sums[0] / sums[1])
    assert found == pytest.approx(clustered_stderr(values, [str(row // 2) for row in range(50)]))


def test_of_a_ratio_by_hand() -> None:
    # Without the 1st, 2nd, 3rd: 2/3, 2/2, 2/1; mean 11/9; deviations -5/9, -2/9, 7/9; sqrt(2/3 * 78/81).
    found = jackknife_stderr([(1, 0), (1, 1), (1, 2)], lambda sums: sums[0] / sums[1])
    assert found == pytest.approx(math.sqrt(2 / 3 * 78 / 81))


def test_what_cannot_be_known() -> None:
    def ratio(sums: object) -> float:
        a, b = sums  # pyright: ignore[reportGeneralTypeIssues]
        return a / b

    assert jackknife_stderr([(1, 2)], ratio) is None
    assert jackknife_stderr([(1, 2), (0, 0)], ratio) is None  # without the first nothing is left to divide by
