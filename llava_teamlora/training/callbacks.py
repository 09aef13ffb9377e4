"""What happens around the steps: the order of an epoch, Ctrl-C, proof that packed rows are apart, recomputation."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from llava_teamlora.data.sampler import LengthSampler
from llava_teamlora.tuners.routed.recompute import skip_recomputed_outputs


class SetEpoch(TrainerCallback):
    """Tells a sampler which epoch begins."""

    def __init__(self, sampler: LengthSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer; ``state.epoch`` is a whole number here, or lies inside a resumed epoch."""
        self.sampler.set_epoch(int(state.epoch or 0))


class ProveSeparation(TrainerCallback):
    """Runs a check when everything stands and before the first step."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer once the model is wrapped and loaded."""
        self.check()


class SkipRecomputedOutputs(TrainerCallback):
    """Spares gradient checkpointing the work whose results nobody reads (see tuners/routed/recompute.py).

    Done here and not through ``--gradient_checkpointing_kwargs``, which are written into every checkpoint.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer once it has switched checkpointing on; a compiler finds such work by itself."""
        if not args.torch_compile:
            skip_recomputed_outputs(kwargs["model"])


class Interruption(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save a checkpoint, stop. A later Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self.requested = False
        self.requested_at = 0.0
        self.started = time.monotonic()
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and install the handlers for the time of training."""
        self.started = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the former handlers back."""
        self.restore()

    def restore(self) -> None:
        """Put the former handlers back, also after a failed training."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end, on all processes if one was interrupted."""
        if args.world_size > 1:
            flag = torch.tensor(int(self.requested), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.requested = bool(flag.item())
        if self.requested:
            control.should_save = True
            control.should_training_stop = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A launcher repeats a signal to its processes: only a person's second Ctrl-C, some time later, ends at once.
        if self.requested and number == signal.SIGINT and time.monotonic() - self.requested_at > 2:
            self.restore()
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self.requested_at = True, time.monotonic()
