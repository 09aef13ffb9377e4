"""What one model's logits lose against another's: sums over batches, then means.

In: the logits of both for one batch at a time. Out: a :class:`MergeCost`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORE = -100  # torch's own number for a position without a label


@dataclass(frozen=True)
class MergeCost:
    """Costs over the positions compared: those that predict a labelled token, or all valid ones if none has labels.

    Args:
        positions: how many.
        loss_before: mean cross-entropy of the labels, in nats, by the exact model; None without labels.
        loss_after: the same by the merged model.
        mean_abs_logit_difference: mean of abs(after - before) over positions and vocabulary.
        max_abs_logit_difference: its greatest value.
        kl_divergence: mean KL(before || after) of the predicted distributions, in nats.
        top1_agreement: share of positions at which both prefer the same token, in [0, 1].
    """

    positions: int
    loss_before: float | None
    loss_after: float | None
    mean_abs_logit_difference: float
    max_abs_logit_difference: float
    kl_divergence: float
    top1_agreement: float


class Tally:
    """Running sums; nothing grows with the data."""

    def __init__(self) -> None:
        self.positions = self.labelled = 0
        self.loss_before = self.loss_after = 0.0
        self.difference = self.greatest = self.kl = self.agreed = 0.0

    def select(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the logits ``[N, V]``, float32 or wider, of the positions that are compared.

        Args:
            logits: ``[B, T, V]``.
            batch: with `labels` ``[B, T]``, or with or without `attention_mask` ``[B, T]``.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels, mask = batch.get("labels"), batch.get("attention_mask")
        if labels is not None:
            return logits[:, :-1][labels[:, 1:] != _IGNORE]
        return logits.flatten(0, 1) if mask is None else logits[mask != 0]

    def add(self, before: Tensor, after: Tensor, batch: Mapping[str, Any]) -> None:
        """Count one batch.

        Args:
            before: selected logits of the exact model, ``[N, V]``.
            after: of the merged one.
            batch: whose logits they are.
        """
        if not len(before):
            return
        difference = (after - before).abs()
        log_before, log_after = before.log_softmax(-1), after.log_softmax(-1)
        self.positions += len(before)
        self.difference += difference.mean(dim=-1).sum().item()
        self.greatest = max(self.greatest, difference.max().item())
        self.kl += F.kl_div(log_after, log_before, reduction="sum", log_target=True).item()
        self.agreed += (before.argmax(-1) == after.argmax(-1)).sum().item()
        if batch.get("labels") is not None:
            targets = batch["labels"][:, 1:]
            targets = targets[targets != _IGNORE]
            self.labelled += len(targets)
            self.loss_before += F.nll_loss(log_before, targets, reduction="sum").item()
            self.loss_after += F.nll_loss(log_after, targets, reduction="sum").item()

    def cost(self) -> MergeCost | None:
        """Return the means; None if nothing was counted."""
        if not self.positions:
            return None
        n, with_loss = self.positions, self.labelled == self.positions
        return MergeCost(
            positions=n,
            loss_before=self.loss_before / n if with_loss else None,
            loss_after=self.loss_after / n if with_loss else None,
            mean_abs_logit_difference=self.difference / n,
            max_abs_logit_difference=self.greatest,
            kl_divergence=max(0.0, self.kl / n) if math.isfinite(self.kl) else self.kl,
            top1_agreement=self.agreed / n,
        )
