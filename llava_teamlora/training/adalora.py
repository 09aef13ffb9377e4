"""AdaLoRA's rank schedule inside the Trainer: peft prunes ranks only if someone tells it of every step.

In: the model and the Trainer's events. Out: ranks pruned on time; the schedule's state beside each checkpoint, so that
a resumed run prunes what the straight run would.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraModel
from peft.utils.warning import PeftWarning
from torch import nn
from transformers import TrainerCallback

from llava_teamlora.errors import UserError
from llava_teamlora.training.flags.arguments import TrainingArguments
from llava_teamlora.tuners.from_peft import adalora_schedule

_STATE_FILE = "adalora.pt"
_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaLoraSchedule(TrainerCallback):
    """Calls AdaLoRA's ``update_and_allocate`` after each optimizer step, and weighs its regulariser right.

    peft adds the orthogonality term to the loss of every forward pass. The Trainer sums the micro-batches of a step
    and the processes without dividing, so each pass gets its share of the term; an evaluation loss gets none.

    Args:
        model: carries one AdaLoRA adapter, active.
        arguments: of the training.

    Attributes:
        resumed: checkpoint that the run goes on from, if it does.

    Raises:
        UserError: with DeepSpeed or FSDP, which keep the gradients this method reads in parts; with fp16, whose
            overflowing gradients would spoil every later ranking.
    """

    def __init__(self, model: PeftModel, arguments: TrainingArguments) -> None:
        if arguments.deepspeed or arguments.fsdp:
            raise UserError(
                "--method adalora reads whole gradients and weights after each step, which DeepSpeed and FSDP keep in "
                "parts: run it without them (torchrun alone works)"
            )
        if arguments.fp16:
            raise UserError(
                "--method adalora ranks by gradients, and those of --fp16 overflow now and then: use --bf16 True"
            )
        tuner, config = model.base_model, model.active_peft_config
        assert isinstance(tuner, AdaLoraModel) and isinstance(config, AdaLoraConfig)
        self.tuner, self.config = tuner, config
        self.regulariser = config.orth_reg_weight
        self.resumed: Path | None = None
        summed = arguments.world_size if arguments.average_tokens_across_devices else 1
        self.share = 1.0 / (arguments.gradient_accumulation_steps * summed)
        model.register_forward_pre_hook(self._weigh)

    def _weigh(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.config.orth_reg_weight = self.regulariser * self.share if model.training else 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lay the schedule over the run's steps, whose number is known now, and go on with a resumed one.

        The Trainer has loaded the checkpoint's weights by now. Were its pruned ranks known earlier, peft would have
        cut the weights to them.

        Raises:
            UserError: too few steps, or a checkpoint without the schedule's state.
        """
        try:
            schedule = adalora_schedule(state.max_steps)
        except ValueError as error:
            raise UserError(f"--method adalora: {error}") from error
        self.config.total_step = state.max_steps
        for name, steps in schedule.items():
            setattr(self.config, name, steps)
        if self.resumed is not None:
            self.load(self.resumed)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune, while the step's gradients are still there."""
        self.tuner.update_and_allocate(state.global_step)

    @contextmanager
    def saving(self, *, whole: bool) -> Iterator[None]:
        """Open while the adapter is written.

        Args:
            whole: keep pruned ranks, as zeros, so that training can go on; else only the ranks that are left go
                into the file.
        """
        pattern = self.config.rank_pattern
        self.config.orth_reg_weight = self.regulariser
        self.config.rank_pattern = None if whole else pattern
        try:
            with warnings.catch_warnings():
                # A linear that has lost every rank has empty weights; peft takes them for unfinished ones.
                warnings.filterwarnings("ignore", message="Adapter .* LoRA tensor", category=PeftWarning)
                yield
        finally:
            self.config.rank_pattern = pattern

    def save(self, checkpoint: Path) -> None:
        """Write the schedule's state into a checkpoint."""
        allocator = self.tuner.rankallocator
        state = {name: getattr(allocator, name) for name in _IMPORTANCE}
        torch.save({**state, "rank_pattern": self.config.rank_pattern}, checkpoint / _STATE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Read the schedule's state from a checkpoint whose weights have been loaded.

        Raises:
            UserError: it is missing.
        """
        path = checkpoint / _STATE_FILE
        if not path.is_file():
            raise UserError(f"{path}: is missing, so AdaLoRA's schedule cannot be gone on with")
        device = next(self.tuner.parameters()).device
        state = torch.load(path, map_location=device, weights_only=True)
        for name in _IMPORTANCE:
            setattr(self.tuner.rankallocator, name, state[name])
        self.config.rank_pattern = state["rank_pattern"]
