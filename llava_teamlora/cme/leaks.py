"""Training rows that evaluation asks for: the same item, the same text in it, or 13 words in a row.

Only an item's own texts are compared, so that "Sentence 1:" or an instruction is no overlap; a row's answer is not
looked through. Reasons, the first that holds: ``item``, the texts of the row in any order, or one of them, are an
evaluation item but for case, white space and marks at the ends; ``text``, one text of 13 words or more is one of an
evaluation item's several, as a premise that two questions of natural-language inference share; ``13-gram``, 13 words in
a row are (Chinese: characters). A text of fewer words is compared as a whole item only, as in GPT-3 (Brown et al. 2020,
appendix C).

Differs from GPT-3: 13-grams that many training documents hold are not set apart as common; a leak takes its own row
only, not 200 characters around it. A leak by 13-gram that is none, by chance of 64 bits, has odds of one in thousands
for a whole mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from llava_teamlora.cme.texts import NGRAM, digest, ngrams, normal, words

Reason = Literal["item", "text", "13-gram"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_FILTER_BITS = 27
_CHARACTERS, _ROWS = 400_000, 4096
"""Rows are hashed together up to these: about 50 MB of arrays."""

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """An evaluation item: its place, for the list of leaks, and its texts."""

    place: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """Why a row leaks, and the place of the evaluation item."""

    reason: Reason
    place: str


class _Table:
    """Hash -> the first item that has it, in two sorted arrays."""

    def __init__(self, hashes: np.ndarray, items: np.ndarray) -> None:
        self.hashes, first = np.unique(hashes, return_index=True)
        self.items = items[first]

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The item of each hash; -1 where there is none."""
        if not len(self.hashes) or not len(hashes):
            return np.full(len(hashes), -1, np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.items[at].astype(np.int64), -1)


class LeakIndex:
    """All evaluation items, as hashes; 12 bytes for each of their 13-grams."""

    def __init__(self, items: Iterable[Asked]) -> None:
        self.places: list[str] = []
        self._whole: dict[int, int] = {}
        self._texts: dict[int, int] = {}
        hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
        for batch in batches(items, lambda item: item.texts):
            first = len(self.places)
            for number, item in enumerate(batch, start=first):
                own = [normal(text) for text in item.texts]
                self.places.append(item.place)
                self._whole.setdefault(digest(sorted(own)), number)
                for text in own:
                    self._texts.setdefault(digest([text]), number)
            found, of = _ngrams([item.texts for item in batch])
            hashes.append(found)
            owners.append((of + first).astype(np.uint32))
        self._ngrams = _Table(np.concatenate(hashes), np.concatenate(owners))
        # Nearly all 13-grams are in no evaluation item, and one look at a bit tells.
        self._filter = np.zeros(1 << (_FILTER_BITS - 3), np.uint8)
        np.bitwise_or.at(self._filter, *_bit(self._ngrams.hashes))

    def __len__(self) -> int:
        return len(self.places)

    def check(self, rows: Sequence[tuple[str, ...]]) -> list[Leak | None]:
        """Look for each of the rows, given by its texts."""
        if not self.places:
            return [None] * len(rows)
        shared = self._shared(rows)
        return [self._judge(texts, shared.get(row)) for row, texts in enumerate(rows)]

    def _judge(self, texts: tuple[str, ...], shared: int | None) -> Leak | None:
        """Of one row, whose first 13 words in a row that an evaluation item has are in that item."""
        own = [normal(text) for text in texts]
        for some in (sorted(own), *([text] for text in own)):
            if any(some) and (item := self._whole.get(digest(some))) is not None:
                return Leak("item", self.places[item])
        if shared is None:
            return None
        for text in own:
            if (item := self._texts.get(digest([text]))) is not None and len(words([text])[0]) >= NGRAM:
                return Leak("text", self.places[item])
        return Leak("13-gram", self.places[shared])

    def _shared(self, rows: Sequence[tuple[str, ...]]) -> dict[int, int]:
        """Row -> item, of the rows that have 13 words in a row of an item."""
        hashes, owners = _ngrams(rows)
        byte, bit = _bit(hashes)
        maybe = (self._filter[byte] & bit) != 0
        owners, items = owners[maybe], self._ngrams.find(hashes[maybe])
        owners, items = owners[items >= 0], items[items >= 0]
        return dict(zip(owners[::-1].tolist(), items[::-1].tolist(), strict=True))  # reversed: the first stays


def batches(items: Iterable[T], texts_of: Callable[[T], tuple[str, ...]]) -> Iterator[list[T]]:
    """Lists of items that are hashed together."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(map(len, texts_of(item)))
        if size > _CHARACTERS or len(batch) == _ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ngrams(rows: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """13-grams of all texts, and the row of each."""
    of = np.array([row for row, texts in enumerate(rows) for _ in texts], np.int64)
    hashes, texts = ngrams([text for texts in rows for text in texts])
    return hashes, of[texts] if len(hashes) else np.empty(0, np.int64)


def _bit(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each hash's place in the filter: byte and bit."""
    top = hashes >> np.uint64(64 - _FILTER_BITS)
    return (top >> np.uint64(3)).astype(np.int64), np.uint8(1) << (top & np.uint64(7)).astype(np.uint8)
