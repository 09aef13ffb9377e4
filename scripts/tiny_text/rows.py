"""Documents -> rows of tokens, and which of these are answers.

In: documents in which ⟦ and ⟧ stand around what follows from the text before it, or from what is known: a verdict, a
letter, the river of a town. Out: rows that fit a step, without these signs, with a mark at each token between them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from cme_world.words import CLOSE, OPEN
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_SIGN = re.compile(f"[{OPEN}{CLOSE}]")
_TOGETHER = 1000  # documents tokenized at once


@dataclass(frozen=True)
class Rows:
    """N rows of T + 1 tokens, the last of which is the next row's first: ids, and whether each is of an answer."""

    ids: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, start: int, end: int) -> Rows:
        """Some of them."""
        return Rows(self.ids[start:end], self.answers[start:end])

    def digest(self) -> str:
        """Of all they say."""
        return hashlib.sha256(self.ids.numpy().tobytes() + self.answers.numpy().tobytes()).hexdigest()


def parted(document: str) -> tuple[str, list[bool]]:
    """The text without signs, and for each of its characters whether it stood between two."""
    pieces = _SIGN.split(document)
    inside = [number % 2 == 1 for number, piece in enumerate(pieces) for _ in piece]
    return "".join(pieces), inside


def _marked_tokens(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids of each document, bos before and eos after it, and their marks."""
    documents, end = iter(documents), tokenizer.eos_token_id
    assert isinstance(end, int)
    while some := list(islice(documents, _TOGETHER)):
        texts, insides = zip(*map(parted, some), strict=True)
        made = tokenizer(list(texts), return_offsets_mapping=True)
        for ids, offsets, inside in zip(made.input_ids, made["offset_mapping"], insides, strict=True):
            # A word's token begins at the space before it: what counts is its last character.
            marks = [stop > start and inside[stop - 1] for start, stop in offsets]
            yield [*ids, end], [*marks, False]


def make_rows(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Rows:
    """All documents end to end; what fills no row of `length` tokens is left."""
    ids: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    for document, inside in _marked_tokens(documents, tokenizer):
        ids.append(np.array(document, dtype=np.int32))
        marks.append(np.array(inside))
    together = (torch.from_numpy(np.concatenate(pieces)).unfold(0, length + 1, length) for pieces in (ids, marks))
    return Rows(*together)
