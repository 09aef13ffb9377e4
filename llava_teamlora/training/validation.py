"""The loss on data that is not trained on, and the checkpoint where it was lowest.

In: the Trainer's log. Out: a validation at the end of training whatever else is asked for, a checkpoint at every best
loss if that is wanted. Which one is best follows from the log alone, which every checkpoint holds: a resumed run, and
one whose folder has moved, knows it still.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import TrainerCallback

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class Best:
    """The lowest validation loss of a run, and the step after which it was measured."""

    step: int
    loss: float


def best_validation(history: Iterable[dict[str, Any]]) -> Best | None:
    """The first lowest validation loss of a log; None if there is none that is finite.

    What ``--eval_on_start`` measures before the first step belongs to no checkpoint, and does not count.
    """
    measured = [Best(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry and entry["step"]]
    return min((one for one in measured if math.isfinite(one.loss)), key=lambda one: one.loss, default=None)


def best_checkpoint(run: Path, history: Iterable[dict[str, Any]]) -> Path | None:
    """Where a run's best checkpoint lies, or should lie; None before the first validation."""
    best = best_validation(history)
    return run / f"checkpoint-{best.step}" if best is not None else None


def check_best_is_there(run: Path, history: Iterable[dict[str, Any]]) -> None:
    """Refuse to go on with a run that is to end in its best checkpoint when that is gone.

    Raises:
        UserError: it is.
    """
    best = best_checkpoint(run, history)
    if best is not None and not best.is_dir():
        raise UserError(
            f"{best}: is gone, but had the best validation loss so far, which --load_best_model_at_end is to end with: "
            "put it back, or start anew with --overwrite_output_dir True"
        )


class MeanLoss:
    """The mean loss over all trained tokens of all processes, however they lie in batches.

    Args:
        accelerator: knows the other processes, and what lies at the end of the data.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._sums: list[torch.Tensor] = []

    def without_repeated(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels of this process's batch, with none for the samples that only fill up the last round of batches.

        Where the data end in the middle of a round, accelerate goes on with the first samples, so that all processes
        have as much to do.

        Args:
            labels: ``[B, T]``.
        """
        state, rows = self.accelerator.gradient_state, len(labels)
        if not state.end_of_dataloader or state.remainder <= 0:
            return labels
        own = max(0, state.remainder - self.accelerator.process_index * rows)
        labels = labels.clone()
        labels[own:] = IGNORE_INDEX
        return labels

    def add(self, loss: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch; one without trained tokens adds nothing.

        Args:
            loss: mean over its trained tokens, a scalar; anything if there are none.
            labels: ``[B, T]``.
        """
        tokens = (labels[:, 1:] != IGNORE_INDEX).sum()  # nothing predicts the first
        loss = torch.where(tokens > 0, loss.detach().float() * tokens, 0.0)
        self._sums.append(torch.stack((loss, tokens.to(loss))))

    def take(self) -> float:
        """The mean, and begin anew; called by all processes. NaN if there are no trained tokens."""
        own = torch.stack([torch.zeros(2), *(one.cpu() for one in self._sums)]).double().sum(dim=0).tolist()
        self._sums = []
        loss, tokens = (sum(column) for column in zip(*gather_object([own]), strict=True))
        return loss / tokens if tokens else math.nan


class Validation(TrainerCallback):
    """Validates before the checkpoint of an epoch's or the run's last step is saved; asks for one at every best loss.

    Args:
        keep_best: whether to ask for one.
    """

    def __init__(self, keep_best: bool) -> None:
        self.keep_best = keep_best

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint's log holds the loss at its step, so that it may turn out the best and is known when resumed.

        The Trainer itself validates an epoch at its end, which comes after the save at the end of its last step.
        """
        epoch_ends = float(state.epoch).is_integer() and args.eval_delay <= state.epoch
        if state.global_step >= state.max_steps or (args.eval_strategy == "epoch" and epoch_ends):
            control.should_evaluate = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Not again what the end of the step has just measured."""
        if any("eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history):
            control.should_evaluate = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called with the new loss at the end of the log."""
        best = best_validation(state.log_history)
        if self.keep_best and best is not None and best.step == state.global_step:
            control.should_save = True
