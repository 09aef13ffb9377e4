"""Samples -> one padded batch.

In: dicts of :class:`ConversationDataset`. Out: ``input_ids``, ``labels``, ``attention_mask`` ``[B, T]`` and, if
any sample has a picture, ``pixel_values [N, 3, H, W]`` in the order of the image tokens; if any has a task tag,
``task [B]``, its index or -1, which is for the trainer and not for the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llava_teamlora.constants import IGNORE_INDEX


def pad(rows: Sequence[torch.Tensor], value: int, side: str) -> torch.Tensor:
    """Stack 1-D rows ``[T_i]`` to ``[B, max T]``, filling ``side`` (``left`` or ``right``) with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)


@dataclass(frozen=True)
class Collator:
    """Pads on the right, as training does.

    Attributes:
        pad_token_id: fills ``input_ids``; the attention mask, not this id, says what is padding.
    """

    pad_token_id: int

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Collate samples; see the module's text for the shapes."""
        ids = [sample["input_ids"] for sample in samples]
        batch = {
            "input_ids": pad(ids, self.pad_token_id, "right"),
            "attention_mask": pad([torch.ones_like(row) for row in ids], 0, "right"),
            "labels": pad([sample["labels"] for sample in samples], IGNORE_INDEX, "right"),
        }
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        if pixels:
            batch["pixel_values"] = torch.cat(pixels)
        if any("task" in sample for sample in samples):
            batch["task"] = torch.stack([sample.get("task", torch.tensor(-1)) for sample in samples])
        return batch
