"""The processes of a launcher (torchrun) that share the work, and what they tell one another.

They talk over gloo, on GPUs too: all they say is "so far" and what it cost. A process that dies closes its
connections, and the others stop in an error instead of waiting for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from llava_teamlora.errors import UserError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""A slow process is waited for; one that has gone is noticed at once, by its connections."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: its number.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes what belongs to all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank, to everybody. Waits for all."""
        if self.count == 1:
            return [value]
        from torch.distributed import all_gather_object

        found: list[T] = [value] * self.count
        all_gather_object(found, value)
        return found

    def agree(self, error: UserError | None) -> None:
        """Go on together or not at all. Waits for all.

        Args:
            error: what this process has run into.

        Raises:
            UserError: that of the first process that has one, on every process.
        """
        try:
            if self.count == 1:
                if error is not None:
                    raise error
                return
            for rank, found in enumerate(self.gather(None if error is None else str(error))):
                if found is not None:
                    raise UserError(found if rank == 0 else f"process {rank}: {found}") from error
        finally:
            error = None  # an error holds the frames it passed; a frame that holds it, too, keeps all their tensors

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the context together, or with the same error on every process."""
        caught = None
        try:
            yield
        except UserError as error:
            caught = error
        try:
            self.agree(caught)
        finally:
            caught = None  # see agree

    def device(self, asked: str | None) -> str | None:
        """This process's own accelerator, where there are several processes.

        Args:
            asked: ``--device``.

        Raises:
            UserError: there are fewer accelerators than processes, or one of them was asked for by number.
        """
        import torch

        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if self.count == 1 or here is None or asked not in (None, here.type):
            if self.count > 1 and asked is not None and ":" in asked:
                raise UserError(f"--device {asked} would put all {self.count} processes on one; drop the number")
            return asked
        local, available = int(os.environ.get("LOCAL_RANK", "0")), torch.accelerator.device_count()
        if local >= available:
            raise UserError(
                f"process {local} of this machine has no {here.type} device of its own, {available} are seen"
            )
        torch.accelerator.set_device_index(local)
        return f"{here.type}:{local}"


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that a launcher started this one among, by the environment; one alone without a launcher."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    from torch.distributed import destroy_process_group, init_process_group

    init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(int(os.environ["RANK"]), count)
    finally:
        destroy_process_group()
