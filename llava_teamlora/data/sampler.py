"""Order of training samples: batches of one modality and of like lengths.

In: signed lengths (negative = text-only). Out: indices for one epoch. Source: LLaVA ``LengthGroupedSampler``
with ``group_by_modality_length``: a step's micro-batches on all devices then hold either pictures or text only,
and little padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


def length_grouped(lengths: Sequence[int], batch: int, ways: int, generator: torch.Generator) -> list[list[int]]:
    """Shuffle, cut into megabatches of ``batch * ways``, sort each by falling length and deal it out evenly.

    Args:
        lengths: positive lengths.
        batch: samples one device sees at once.
        ways: devices times gradient accumulation steps.
        generator: source of all randomness.

    Returns:
        Megabatches of indices; within each, every run of ``batch`` indices has about the same total length.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    size = batch * ways
    mega = [sorted(order[i : i + size], key=lambda j: -lengths[j]) for i in range(0, len(order), size)]
    return [_deal(indices, lengths, ways) for indices in mega]


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


def modality_grouped(signed_lengths: Sequence[int], batch: int, ways: int, generator: torch.Generator) -> list[int]:
    """One epoch's order with whole megabatches of one modality; the two left-over parts come last, mixed.

    Args:
        signed_lengths: non-zero; negative for text-only samples.
        batch: samples one device sees at once.
        ways: devices times gradient accumulation steps.
        generator: source of all randomness.
    """
    size = batch * ways
    whole: list[list[int]] = []
    rest: list[int] = []
    for sign in (1, -1):
        members = [i for i, length in enumerate(signed_lengths) if length * sign > 0]
        groups = length_grouped([abs(signed_lengths[i]) for i in members], batch, ways, generator)
        for group in groups:
            indices = [members[i] for i in group]
            if len(indices) == size:
                whole.append(indices)
            else:
                rest += indices
    shuffled = [whole[i] for i in torch.randperm(len(whole), generator=generator).tolist()]
    return [index for group in shuffled for index in group] + rest


class ModalityLengthSampler(Sampler[int]):
    """``--group_by_modality_length True``. An epoch's order depends on seed and epoch alone, so that a resumed
    run sees what the straight run saw.

    Args:
        signed_lengths: words per sample, negative for text-only.
        batch: samples one device sees at once.
        ways: devices times gradient accumulation steps.
        seed: the run's data seed.
    """

    def __init__(self, signed_lengths: Sequence[int], batch: int, ways: int, seed: int) -> None:
        if any(length == 0 for length in signed_lengths):
            raise ValueError("signed lengths must not be 0: the sign tells the modality")
        self.signed_lengths = signed_lengths
        self.batch = batch
        self.ways = ways
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch (by ``training.trainer.SetEpoch``)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.signed_lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(modality_grouped(self.signed_lengths, self.batch, self.ways, generator))
