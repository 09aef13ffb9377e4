"""How much a run has trained on: samples and tokens, counted exactly, over all processes and all legs of the run.

In: every batch as it is trained on. Out: sums, for ``run.yaml``. Nothing waits: counts stay on the device until the sum
is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.machine import peak_memory_mib

_NAMES = ("samples", "tokens", "image_tokens", "trained_tokens")
_PEAK = "peak_mem_mib"


class Tally:
    """Counts what is trained on.

    Args:
        accelerator: knows the other processes.
        image_token_id: id of ``<image>``; None for a model that takes no pictures.
    """

    def __init__(self, accelerator: Accelerator, image_token_id: int | None) -> None:
        self.accelerator = accelerator
        self.image_token_id = image_token_id
        self._counts = torch.zeros(len(_NAMES), dtype=torch.int64, device=accelerator.device)
        self._before = dict.fromkeys((*_NAMES, _PEAK), 0)

    def go_on(self, results: dict[str, Any]) -> None:
        """Begin where a checkpoint's sums stood.

        Args:
            results: of the checkpoint's ``run.yaml``.
        """
        self._before = {name: results[name] for name in self._before}

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count one batch of this process, as the collator made it."""
        # The mask numbers the samples of a packed row from 1; a row of one sample holds ones. 0 is padding.
        mask = batch["attention_mask"]  # [B, T]
        image = -1 if self.image_token_id is None else self.image_token_id
        counts = (
            mask.amax(dim=1).sum(),
            (mask > 0).sum(),
            (batch["input_ids"] == image).sum(),
            (batch["labels"][:, 1:] != IGNORE_INDEX).sum(),  # nothing predicts the first
        )
        self._counts += torch.stack(counts).to(self._counts)

    def sums(self) -> dict[str, int]:
        """Sums over all processes and legs, and the most memory that any process held, in MiB; called by all."""
        total = self.accelerator.reduce(self._counts.clone(), "sum")
        peaks = self.accelerator.gather(torch.tensor([peak_memory_mib()], device=self.accelerator.device))
        assert isinstance(total, torch.Tensor) and isinstance(peaks, torch.Tensor)
        now = dict(zip(_NAMES, total.tolist(), strict=True))
        sums = {name: self._before[name] + now[name] for name in _NAMES}
        return {**sums, _PEAK: max(self._before[_PEAK], int(peaks.max()))}
