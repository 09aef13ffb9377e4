"""Modality grouping: every index once, whole batches of one modality, like lengths together, order by seed."""

from __future__ import annotations

import random

import pytest
import torch

from llava_teamlora.data.sampler import ModalityLengthSampler, length_grouped, modality_grouped


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
    sampler, twin = (ModalityLengthSampler(signed, 4, 1, seed=3) for _ in range(2))
    first = list(sampler)
    assert first == list(sampler) == list(twin)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(ModalityLengthSampler(signed, 4, 1, seed=4)) != first
    assert len(sampler) == 50


def test_zero_length_has_no_modality() -> None:
    with pytest.raises(ValueError, match="must not be 0"):
        ModalityLengthSampler([1, 0], 1, 1, 0)
