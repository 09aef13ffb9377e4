"""Standard errors of scores that are no plain means: F1, or a sum of shares with different denominators."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence


def jackknife_stderr(
    clusters: Sequence[Sequence[float]], statistic: Callable[[Sequence[float]], float]
) -> float | None:
    """Delete-one-cluster jackknife of a statistic of sums.

    With G clusters, t_g the statistic of all but cluster g and t their mean: sqrt((G - 1) / G * sum_g (t_g - t)^2)
    (Efron and Tibshirani 1993, chapter 11). For a mean over clusters of one size it is the usual s / sqrt(G); unlike a
    bootstrap it needs no seed.

    Args:
        clusters: the counts of each, in one order.
        statistic: of the counts' sums over clusters.

    Returns:
        The standard error, or None with fewer than two clusters, or where without one of them nothing is left to
        divide by.
    """
    count = len(clusters)
    if count < 2:
        return None
    sums = [sum(column) for column in zip(*clusters, strict=True)]
    try:
        without = [statistic([s - own for s, own in zip(sums, cluster, strict=True)]) for cluster in clusters]
    except ZeroDivisionError:
        return None
    mean = sum(without) / count
    return math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in without))


def block_jackknife(
    clusters: Sequence[str], statistic: Callable[[Sequence[int]], Sequence[float]], blocks: int = 100, seed: int = 0
) -> list[float] | None:
    """Standard errors of statistics that need not be means, from leaving out one block of clusters after another.

    Whole clusters are dealt at random into g blocks as even as can be; with the estimates t_j without block j,
    sqrt((g - 1) / g * sum_j (t_j - mean t)^2) (Quenouille, Tukey). With one cluster a block it is the usual delete-one
    jackknife; for a mean over clusters of one size that is exactly s / sqrt(n). For smooth statistics of sums (F1,
    accuracy of groups, MME's sum of subtasks) it agrees with the bootstrap, at ``blocks`` evaluations instead of
    thousands, and it repeats no row, so anything that scores a part of a benchmark can be the statistic.

    Args:
        clusters: the cluster of each row.
        statistic: indices of rows -> figures; always as many.
        blocks: at most so many; its own relative error is about 1 / sqrt(2 * (blocks - 1)).
        seed: of the dealing.

    Returns:
        One standard error a figure; None with fewer than two clusters.
    """
    names = sorted(set(clusters))
    if len(names) < 2:
        return None
    random.Random(seed).shuffle(names)
    count = min(blocks, len(names))
    block = {name: place % count for place, name in enumerate(names)}
    of_row = [block[cluster] for cluster in clusters]
    estimates = [statistic([row for row, its in enumerate(of_row) if its != left_out]) for left_out in range(count)]
    errors = []
    for figures in zip(*estimates, strict=True):
        mean = sum(figures) / count
        errors.append(math.sqrt((count - 1) / count * sum((figure - mean) ** 2 for figure in figures)))
    return errors
