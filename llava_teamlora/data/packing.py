"""Samples put together into rows of at most ``--model_max_length`` tokens (``--packing True``).

In: a data set of samples and its exact token lengths. Out: a data set of rows, each a list of samples, which the
collator lays end to end and the model keeps apart (training/separation.py). Little padding is left, and the loss is
that of the same samples in rows of their own. Rows are made once, from a seed; an epoch shuffles rows, so that every
epoch has as many steps as every other.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

WINDOW = 8192
"""Samples that are packed together: enough for full rows, few enough for rows to be mixtures."""

Row = tuple[int, ...]


def pack(lengths: Sequence[int], capacity: int, seed: int, window: int = WINDOW) -> list[Row]:
    """Put samples into rows: shuffled, cut into windows, and each window packed by best-fit decreasing.

    Args:
        lengths: tokens of each sample, 1 to ``capacity``.
        capacity: most tokens of a row.
        seed: of the shuffle.
        window: samples packed together.

    Returns:
        Rows of indices; every index once, those of a row by falling length.

    Raises:
        ValueError: a sample is empty or longer than a row.
    """
    wrong = next((i for i, length in enumerate(lengths) if not 0 < length <= capacity), None)
    if wrong is not None:
        raise ValueError(f"sample {wrong} has {lengths[wrong]} tokens; rows take 1 to {capacity}")
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    return [row for i in range(0, len(order), window) for row in _best_fit(order[i : i + window], lengths, capacity)]


def _best_fit(indices: Sequence[int], lengths: Sequence[int], capacity: int) -> list[Row]:
    """Longest first, each into the row that it fills best; a new row where none has room."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(indices, key=lambda i: -lengths[i]):
        place = bisect_left(room, (lengths[index], 0))
        if place == len(room):
            rows.append([])
            left, row = capacity, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        insort(room, (left - lengths[index], row))
    return [tuple(row) for row in rows]


@dataclass(frozen=True)
class Packed:
    """What packing did.

    Attributes:
        samples: packed.
        rows: they fill.
        tokens: of all samples.
        capacity: tokens a row can hold.
    """

    samples: int
    rows: int
    tokens: int
    capacity: int

    def __str__(self) -> str:
        full = 100 * self.tokens / (self.rows * self.capacity)
        return (
            f"packing: {self.samples:,} conversations in {self.rows:,} rows of at most {self.capacity:,} tokens, "
            f"{self.samples / self.rows:.1f} a row, {full:.1f} % full"
        )


class PackedDataset(Dataset):
    """Rows of samples.

    Args:
        samples: the data set whose samples are packed.
        lengths: their exact token counts (:func:`token_lengths`).
        seed: the run's data seed.
        by_modality: keep samples with pictures and those without in different rows.

    Attributes:
        rows: indices of each row's samples.
        seen: whether a sample has pictures.
    """

    def __init__(self, samples: ConversationDataset, lengths: Sequence[int], seed: int, by_modality: bool) -> None:
        self.samples = samples
        self.tokens = lengths
        self.vision = samples.vision
        self.features = samples.features
        self.tasks = samples.tasks
        self.seen = [bool(record.images) for record in samples.records]
        seeing, blind = ([i for i, seen in enumerate(self.seen) if seen == wanted] for wanted in (True, False))
        self.rows: list[Row] = []
        for members in (seeing, blind) if by_modality else (range(len(samples)),):
            rows = pack([lengths[i] for i in members], samples.max_length, seed)
            self.rows += [tuple(members[i] for i in row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[dict[str, torch.Tensor]]:
        row = [self.samples[i] for i in self.rows[index]]
        for i, sample in zip(self.rows[index], row, strict=True):
            if len(sample["input_ids"]) != self.tokens[i]:
                raise UserError(
                    f"{self.samples.records[i].where}: has {len(sample['input_ids'])} tokens, but had {self.tokens[i]} "
                    f"when rows were made; delete {lengths_folder()} and start again"
                )
        return row

    @property
    def signed_lengths(self) -> list[int]:
        """Tokens of each row, negative for those without pictures."""
        return [sum(self.tokens[i] for i in row) * (1 if any(self.seen[i] for i in row) else -1) for row in self.rows]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [abs(length) for length in self.signed_lengths]

    @property
    def packed(self) -> Packed:
        """What packing did."""
        return Packed(len(self.samples), len(self.rows), int(sum(self.tokens)), self.samples.max_length)


# Exact lengths ----------------------------------------------------------------------------------------------


class _Lengths(Dataset):
    """Token counts of a data set's samples; encodes the text and opens no picture."""

    def __init__(self, samples: ConversationDataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> int:
        return len(self.samples.encode(index).input_ids)


def token_lengths(
    samples: ConversationDataset,
    workers: int = 0,
    cache: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[int]:
    """Tokens of every sample, pictures expanded and length limited; encodes all records unless that is known already.

    Args:
        samples: the data set.
        workers: processes that encode beside each other; 0 encodes here.
        cache: folder that keeps lengths from run to run; None keeps none.
        progress: called with the number of further samples encoded.

    Raises:
        UserError: a record cannot be encoded, or the cache cannot be written.
    """
    path = cache / f"{_key(samples)}.json" if cache is not None else None
    if path is not None and (known := _read(path, len(samples))) is not None:
        return known
    own = torch.Generator()  # a loader draws a number even where nothing is random; not from the run's
    loader: DataLoader[torch.Tensor] = DataLoader(_Lengths(samples), 256, num_workers=workers, generator=own)
    lengths: list[int] = []
    for batch in loader:
        lengths += batch.tolist()
        if progress is not None:
            progress(len(batch))
    if path is not None:
        write_atomically(path, json.dumps(lengths))
    return lengths


def lengths_folder() -> Path:
    """Where lengths are kept: ``$XDG_CACHE_HOME/llava_teamlora/lengths``, by default below ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "llava_teamlora" / "lengths"


def _key(samples: ConversationDataset) -> str:
    """Names everything that lengths follow from."""
    vision = samples.vision
    pictures = None if vision is None else (vision.image_token_id, vision.tokens_per_image)
    digest = hashlib.sha256(repr((samples.template, pictures, samples.max_length)).encode())
    digest.update(samples.tokenizer.backend_tokenizer.to_str().encode())  # type: ignore[attr-defined]
    for record in samples.records:
        digest.update(repr(record).encode())
    return digest.hexdigest()


def _read(path: Path, count: int) -> list[int] | None:
    """Lengths kept by an earlier run; None if there are none, or none that can be read."""
    try:
        lengths = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(lengths, list) and len(lengths) == count and all(type(n) is int and n > 0 for n in lengths)
    return lengths if whole else None
