"""What of a tokenized conversation carries a loss."""

from __future__ import annotations

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.data.tokenize import Encoded


def trained_runs(encoded: Encoded) -> list[list[int]]:
    """The runs of trained tokens, each of which is its own label."""
    runs: list[list[int]] = [[]]
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label == IGNORE_INDEX:
            runs.append([])
        else:
            assert label == token
            runs[-1].append(token)
    return [run for run in runs if run]
