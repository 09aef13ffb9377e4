"""Gradient checkpointing on or off: what either takes of the device's memory. Said, never switched silently."""

from __future__ import annotations

from dataclasses import dataclass

from llava_teamlora.machine import DeviceMemory

_GIB = 2**30


@dataclass(frozen=True)
class Advice:
    """Both ways of one run, each process.

    Attributes:
        on_bytes: all that is needed with gradient checkpointing.
        off_bytes: and without.
        off_activation_bytes: of that, what a step keeps and computes in between.
        work: operations of a step without, over those with it: counted, not timed.
        on_fits: whether the first fits the device.
        off_fits: whether the second does.
        off_batch: a smaller batch that fits without, where this one does not; None where none does.
        batch: samples of the batch.
        device: None where its memory is not known.
    """

    on_bytes: int
    off_bytes: int
    off_activation_bytes: int
    work: float
    on_fits: bool
    off_fits: bool
    off_batch: int | None
    batch: int
    device: DeviceMemory | None

    @property
    def recommended(self) -> bool:
        """Whether to checkpoint."""
        return not self.off_fits

    def say(self, asked: bool) -> str:
        """The recommendation in one line; empty where the table's own warning says all.

        Args:
            asked: whether the run checkpoints.
        """
        if self.device is None:
            both = f"{_gib(self.on_bytes)} GiB with it, {_gib(self.off_bytes)} GiB without"
            return f"gradient checkpointing: {both}; {self._work()}"
        rest = self.off_bytes - self.off_activation_bytes
        need = f"activations {_gib(self.off_activation_bytes)} GiB + the rest {_gib(rest)} GiB"
        need += f" of {_gib(self.device.total_bytes)} GiB"
        if self.off_fits:
            may = "may be off (--gradient_checkpointing False)" if asked else "may stay off"
            return f"gradient checkpointing {may}: {need}; {self._work()}"
        if not self.on_fits:
            return ""
        keep = "must stay on" if asked else "must be on (--gradient_checkpointing True)"
        return f"gradient checkpointing {keep}: without it {need}{self._smaller()}"

    def _work(self) -> str:
        return f"without it a step has {self.work:.2f} of the operations that it has with it (counted, not timed)"

    def _smaller(self) -> str:
        if self.off_batch is None:
            return ""
        times = -(-self.batch // self.off_batch)
        flags = f"--per_device_train_batch_size {self.off_batch} and {times} times the --gradient_accumulation_steps"
        return f"; {flags} would fit without it; {self._work()}"


def _gib(size: int) -> str:
    return f"{size / _GIB:,.1f}"
