"""Samples -> one padded batch.

In: dicts of :class:`ConversationDataset`, or lists of them, which are rows of :class:`PackedDataset`. Out:
``input_ids``, ``labels``, ``attention_mask`` ``[B, T]`` and, if any sample has a picture, ``pixel_values [N, 3, H, W]``
in the order of the image tokens (or what the vision tower makes of them, ``[N, P, D]``, from a store of features); if
any has a task tag, ``task [B]``, its index or -1, which is for the trainer and not for the model.

Packed rows also have ``position_ids [B, T]``, which begin anew with each sample; their ``attention_mask`` says which
sample of its row a token belongs to (1, 2, …; 0 is padding), and ``task`` is ``[B, T]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from llava_teamlora.constants import IGNORE_INDEX

Sample = dict[str, torch.Tensor]


def pad(rows: Sequence[torch.Tensor], value: int, side: str) -> torch.Tensor:
    """Stack 1-D rows ``[T_i]`` to ``[B, max T]``, filling ``side`` (``left`` or ``right``) with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)


@dataclass(frozen=True)
class Collator:
    """Pads on the right, as training does.

    Attributes:
        pad_token_id: fills ``input_ids``; the attention mask, not this id, says what is padding.
        flat: lay packed rows of a batch end to end in one row without padding, as FlashAttention wants them.
    """

    pad_token_id: int
    flat: bool = False

    def __call__(self, samples: Sequence[Sample] | Sequence[Sequence[Sample]]) -> Sample:
        """Collate samples or packed rows; see the module's text for the shapes."""
        if isinstance(samples[0], dict):
            return self._batch(cast(Sequence[Sample], samples))
        rows = cast(Sequence[Sequence[Sample]], samples)
        return self._packed([[sample for row in rows for sample in row]] if self.flat else rows)

    def _batch(self, samples: Sequence[Sample]) -> Sample:
        ids = [sample["input_ids"] for sample in samples]
        batch = {
            "input_ids": pad(ids, self.pad_token_id, "right"),
            "attention_mask": pad([torch.ones_like(row) for row in ids], 0, "right"),
            "labels": pad([sample["labels"] for sample in samples], IGNORE_INDEX, "right"),
            **_pictures(samples),
        }
        if any("task" in sample for sample in samples):
            batch["task"] = torch.stack([_task(sample) for sample in samples])
        return batch

    def _packed(self, rows: Sequence[Sequence[Sample]]) -> Sample:
        samples = [sample for row in rows for sample in row]
        numbered = [list(enumerate(row, start=1)) for row in rows]
        batch = {
            "input_ids": pad([torch.cat([s["input_ids"] for s in row]) for row in rows], self.pad_token_id, "right"),
            "attention_mask": pad([torch.cat([_like(s, n) for n, s in row]) for row in numbered], 0, "right"),
            "position_ids": pad([torch.cat([_positions(s) for s in row]) for row in rows], 0, "right"),
            "labels": pad([torch.cat([_predicted(s) for s in row]) for row in rows], IGNORE_INDEX, "right"),
            **_pictures(samples),
        }
        if any("task" in sample for sample in samples):
            tasks = [torch.cat([_like(s, int(_task(s))) for s in row]) for row in rows]
            batch["task"] = pad(tasks, -1, "right")
        return batch


def _pictures(samples: Sequence[Sample]) -> Sample:
    pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    return {"pixel_values": torch.cat(pixels)} if pixels else {}


def _task(sample: Sample) -> torch.Tensor:
    return sample.get("task", torch.tensor(-1))


def _like(sample: Sample, value: int) -> torch.Tensor:
    return torch.full_like(sample["input_ids"], value)


def _positions(sample: Sample) -> torch.Tensor:
    return torch.arange(len(sample["input_ids"]))


def _predicted(sample: Sample) -> torch.Tensor:
    """Labels without the first: alone in a row nothing would predict it, here the sample before would."""
    labels = sample["labels"].clone()
    labels[:1] = IGNORE_INDEX
    return labels
