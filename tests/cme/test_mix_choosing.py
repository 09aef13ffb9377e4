"""Duplicates, caps and scale follow from digests alone."""

from __future__ import annotations

import numpy as np

from llava_teamlora.cme.choosing import Chooser


def digests(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def test_a_smaller_scale_and_cap_take_a_part() -> None:
    contents = [digests(1000, 1) % 700, digests(800, 2) % 900]  # many duplicates, in a set and between both
    priorities = [digests(1000, 3), digests(800, 4)]
    taken = {}
    for scale in (1, 10, 20, 55, 100):
        chooser = Chooser(scale, dedup=True)
        for n, cap in enumerate((300, 200)):
            choice = chooser.choose(contents[n], priorities[n], cap)
            rows = len(contents[n])
            assert choice.chosen.sum() == -(-cap * scale // 100)  # rounded up
            dropped = choice.duplicates + choice.duplicates_of_others + choice.over_cap + choice.beyond_scale
            assert dropped + choice.chosen.sum() == rows
            taken[scale, n] = set(np.flatnonzero(choice.chosen).tolist())
    for n in (0, 1):
        for less, more in ((1, 10), (10, 20), (20, 55), (55, 100)):
            assert taken[less, n] < taken[more, n]
    small = Chooser(100, dedup=True).choose(contents[0], priorities[0], 50)
    assert set(np.flatnonzero(small.chosen).tolist()) < taken[100, 0]


def test_order_of_rows_decides_nothing() -> None:
    contents, priorities = digests(500, 5) % 300, digests(500, 6)
    order = np.random.default_rng(7).permutation(500)
    one = Chooser(50, dedup=True).choose(contents, priorities, 120).chosen
    other = Chooser(50, dedup=True).choose(contents[order], priorities[order], 120).chosen
    assert sorted(priorities[one]) == sorted(priorities[order][other])


def test_the_first_copy_by_priority_stays() -> None:
    contents = np.array([7, 8, 7, 9, 7], np.uint64)
    priorities = np.array([30, 20, 10, 40, 50], np.uint64)
    chooser = Chooser(100, dedup=True)
    choice = chooser.choose(contents, priorities, 2)
    assert choice.chosen.tolist() == [False, True, True, False, False]  # 7 by its copy of 10, then 8; 9 is over the cap
    assert (choice.duplicates, choice.over_cap) == (2, 1)
    # A later set may bring 9, which the first had no place for, but not 8.
    later = chooser.choose(np.array([8, 9], np.uint64), np.array([1, 2], np.uint64), 10)
    assert later.chosen.tolist() == [False, True]
    assert later.duplicates_of_others == 1


def test_without_looking_for_duplicates_all_stay() -> None:
    same = np.zeros(4, np.uint64)
    choice = Chooser(100, dedup=False).choose(same, same, 3)
    assert (choice.chosen.sum(), choice.duplicates, choice.over_cap) == (3, 0, 1)
