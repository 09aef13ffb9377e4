"""Modality grouping: every index once, whole batches of one modality, like lengths together, order by seed."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from llava_teamlora.data.sampler import LengthSampler, length_grouped, lengths_of, modality_grouped


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lengths(pictures: int, texts: int) -> list[int]:
    rng = random.Random(0)
    values = [rng.randint(1, 200) for _ in range(pictures)] + [-rng.randint(1, 200) for _ in range(texts)]
    rng.shuffle(values)
    return values


@pytest.mark.parametrize(("pictures", "texts"), [(100, 37), (64, 0), (0, 50), (3, 2), (1, 1)])
def test_every_index_once(pictures: int, texts: int) -> None:
    signed = lengths(pictures, texts)
    assert sorted(modality_grouped(signed, 4, 2, generator())) == list(range(len(signed)))


def test_whole_steps_hold_one_modality() -> None:
    signed = lengths(100, 37)
    order = modality_grouped(signed, batch=4, ways=2, generator=generator())
    steps = [order[i : i + 8] for i in range(0, len(order), 8)]
    mixed = [step for step in steps if len({signed[i] > 0 for i in step}) > 1]
    assert len(mixed) <= 2 and all(step in steps[-2:] for step in mixed)  # 100 % 8 + 37 % 8 are left over
    assert {signed[step[0]] > 0 for step in steps} == {True, False}


def test_ways_get_near_equal_lengths_longest_first() -> None:
    values = [random.Random(1).randint(1, 500) for _ in range(64)]
    for mega in length_grouped(values, batch=8, ways=4, generator=generator()):
        chunks = [mega[i : i + 8] for i in range(0, 32, 8)]
        totals = [sum(values[i] for i in chunk) for chunk in chunks]
        assert max(totals) - min(totals) <= max(values)
        assert all([values[i] for i in chunk] == sorted((values[i] for i in chunk), reverse=True) for chunk in chunks)


def test_order_follows_seed_and_epoch() -> None:
    signed = lengths(40, 10)
    sampler, twin = (LengthSampler(signed, 4, 1, seed=3) for _ in range(2))
    first = list(sampler)
    assert first == list(sampler) == list(twin)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LengthSampler(signed, 4, 1, seed=4)) != first
    assert len(sampler) == 50


def test_zero_length_has_no_modality() -> None:
    with pytest.raises(ValueError, match="must not be 0"):
        LengthSampler([1, 0], 1, 1, 0)


def padding(order: list[int], values: list[int], batch: int) -> int:
    """Places of an epoch's batches that hold no token."""
    batches = [[values[i] for i in order[j : j + batch]] for j in range(0, len(order), batch)]
    return sum(len(b) * max(b) - sum(b) for b in batches)


def test_sorting_widely_saves_padding_and_stays_random() -> None:
    values = [abs(length) for length in lengths(2000, 100)]
    wide, narrow = (LengthSampler(values, 8, 1, seed=0, sort_widely=widely) for widely in (True, False))
    order = list(wide)
    assert sorted(order) == list(range(2100))
    assert padding(order, values, 8) < 0.1 * padding(list(narrow), values, 8)
    longest = [max(values[i] for i in order[j : j + 8]) for j in range(0, 400, 8)]
    assert longest != sorted(longest, reverse=True)  # steps of long samples are spread over the epoch
    wide.set_epoch(1)
    steps = {frozenset(order[j : j + 8]) for j in range(0, 2100, 8)}
    again = list(wide)
    assert len(steps & {frozenset(again[j : j + 8]) for j in range(0, 2100, 8)}) < 3  # an epoch mixes them anew


def test_one_modality_alone_is_grouped_by_length_too() -> None:
    """A data set without pictures: no sign, no second modality."""
    order = list(LengthSampler([3, 1, 2, 3, 1, 2, 9], 2, 1, seed=0, sort_widely=True))
    assert sorted(order) == list(range(7))


def test_lengths_of_joined_data() -> None:
    class Made(Dataset):
        lengths, signed_lengths = [3, 1, 2], [3, -1, 2]

        def __len__(self) -> int:
            return 3

    joined = ConcatDataset([Made(), Subset(Made(), [2, 0])])
    assert lengths_of(joined, "lengths") == [3, 1, 2, 2, 3]
    assert lengths_of(joined, "signed_lengths") == [3, -1, 2, 2, 3]
    with pytest.raises(TypeError, match="list has no lengths: samples cannot be grouped by length"):
        lengths_of([1, 2], "lengths")
