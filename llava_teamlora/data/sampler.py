"""Order of training samples: batches of like lengths, and if asked for of one modality.

In: lengths, negative for text-only samples where modalities are kept apart. Out: indices for one epoch. Source: LLaVA
``LengthGroupedSampler`` with ``group_by_modality_length``: a step's micro-batches on all devices then hold either
pictures or text only, and little padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Sampler, Subset

_WINDOW = 50
"""Steps whose samples ``--group_by_length`` sorts together, as transformers' own did."""


def length_grouped(
    lengths: Sequence[int], batch: int, ways: int, generator: torch.Generator, window: int = 1
) -> list[list[int]]:
    """Shuffle, sort windows by falling length, cut them into megabatches of ``batch * ways`` and deal each out evenly.

    Args:
        lengths: positive lengths.
        batch: samples one device sees at once.
        ways: devices times gradient accumulation steps.
        generator: source of all randomness.
        window: megabatches that are sorted together; 1, LLaVA's, evens out devices and saves little padding.

    Returns:
        Megabatches of indices; within each, every run of ``batch`` indices has about the same total length.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    size, span = batch * ways, batch * ways * window
    order = [j for i in range(0, len(order), span) for j in sorted(order[i : i + span], key=lambda j: -lengths[j])]
    return [_deal(order[i : i + size], lengths, ways) for i in range(0, len(order), size)]


def _deal(indices: list[int], lengths: Sequence[int], ways: int) -> list[int]:
    """Split falling-length indices into ``ways`` chunks of near-equal total length, longest first."""
    if len(indices) % ways:
        return indices
    capacity = len(indices) // ways
    chunks: list[list[int]] = [[] for _ in range(ways)]
    totals = [0] * ways
    for index in indices:
        open_chunks = [c for c in range(ways) if len(chunks[c]) < capacity]
        lightest = min(open_chunks, key=lambda c: totals[c])
        chunks[lightest].append(index)
        totals[lightest] += lengths[index]
    return [index for chunk in chunks for index in chunk]


def modality_grouped(
    signed_lengths: Sequence[int], batch: int, ways: int, generator: torch.Generator, window: int = 1
) -> list[int]:
    """One epoch's order with whole megabatches of one modality; the two left-over parts come last, mixed.

    Args:
        signed_lengths: non-zero; negative for text-only samples.
        batch: samples one device sees at once.
        ways: devices times gradient accumulation steps.
        generator: source of all randomness.
        window: see :func:`length_grouped`.
    """
    size = batch * ways
    whole: list[list[int]] = []
    rest: list[int] = []
    for sign in (1, -1):
        members = [i for i, length in enumerate(signed_lengths) if length * sign > 0]
        groups = length_grouped([abs(signed_lengths[i]) for i in members], batch, ways, generator, window)
        for group in groups:
            indices = [members[i] for i in group]
            if len(indices) == size:
                whole.append(indices)
            else:
                rest += indices
    shuffled = [whole[i] for i in torch.randperm(len(whole), generator=generator).tolist()]
    return [index for group in shuffled for index in group] + rest


def lengths_of(dataset: Any, attribute: str) -> list[int]:
    """Lengths of a data set that has them, also through torch's ``ConcatDataset`` and ``Subset``.

    Args:
        dataset: one of ours, or made of ours.
        attribute: ``lengths`` or ``signed_lengths``.

    Raises:
        TypeError: nothing says how long its samples are.
    """
    if isinstance(dataset, ConcatDataset):
        return [length for part in dataset.datasets for length in lengths_of(part, attribute)]
    if isinstance(dataset, Subset):
        whole = lengths_of(dataset.dataset, attribute)
        return [whole[index] for index in dataset.indices]
    if not hasattr(dataset, attribute):
        raise TypeError(f"{type(dataset).__name__} has no {attribute}: samples cannot be grouped by length")
    return getattr(dataset, attribute)


class LengthSampler(Sampler[int]):
    """``--group_by_modality_length True`` and, with ``sort_widely``, ``--group_by_length True``. An epoch's order
    depends on seed and epoch alone, so that a resumed run sees what the straight run saw.

    Args:
        lengths: of the samples, in words or tokens; negative for text-only ones to keep these apart.
        batch: samples one device sees at once.
        ways: devices times gradient accumulation steps.
        seed: the run's data seed.
        sort_widely: sort the samples of many steps together, so that a step has little padding.

    Raises:
        ValueError: a length is 0, which tells no modality.
    """

    def __init__(self, lengths: Sequence[int], batch: int, ways: int, seed: int, *, sort_widely: bool = False) -> None:
        if any(length == 0 for length in lengths):
            raise ValueError("lengths must not be 0: the sign tells the modality")
        self.lengths = lengths
        self.batch = batch
        self.ways = ways
        self.seed = seed
        # In a small data set fewer, or every epoch would have the same batches.
        self.window = max(1, min(_WINDOW, len(lengths) // (4 * batch * ways))) if sort_widely else 1
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch (by ``training.callbacks.SetEpoch``)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(modality_grouped(self.lengths, self.batch, self.ways, generator, self.window))
