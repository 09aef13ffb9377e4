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

from transformers import TrainerCallback

from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class Best:
    """The lowest validation loss of a run, and the step after which it was measured."""

    step: int
    loss: float


def best_validation(history: Iterable[dict[str, Any]]) -> Best | None:
    """The first lowest validation loss of a log; None if there is none that is finite."""
    measured = [Best(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
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


class Validation(TrainerCallback):
    """Validates after the last step, before its checkpoint is saved, and asks for a checkpoint at every best loss.

    Args:
        keep_best: whether to ask for one.
    """

    def __init__(self, keep_best: bool) -> None:
        self.keep_best = keep_best

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last checkpoint's log holds the last loss, so that it may turn out the best."""
        if state.global_step >= state.max_steps:
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
