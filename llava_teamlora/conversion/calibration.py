"""LLaVA records -> batches to calibrate a merge on, and others to judge it by.

In: a loaded run and LLaVA's JSON. Out: two sets of batches that can be gone through more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

from llava_teamlora.checkpoint import Loaded
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.images import check_images
from llava_teamlora.data.records import load_records
from llava_teamlora.errors import UserError

HELD_OUT_EVERY = 5
"""One conversation in so many is held out, if there are that many."""


@dataclass(frozen=True)
class DataPlan:
    """Which conversations, and how many at once.

    Attributes:
        data_path: LLaVA's JSON.
        image_folder: folder of its pictures; None for text alone.
        limit: most conversations to use, evenly spread over the file, >= 1.
        batch_size: conversations at once, >= 1.
        max_length: longest conversation in tokens.

    Raises:
        UserError: a number below 1.
    """

    data_path: Path
    image_folder: Path | None
    limit: int
    batch_size: int
    max_length: int

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class Calibration:
    """Batches as keyword arguments of the model, on its device."""

    batches: Batches
    held_out: Batches


class Batches:
    """The same batches each time they are gone through.

    Args:
        loader: of collated samples.
        device: where the model is.
        dtype: of the model, for pictures.
    """

    def __init__(self, loader: DataLoader | None, device: torch.device, dtype: torch.dtype) -> None:
        self.loader = loader
        self.device = device
        self.dtype = dtype

    def __len__(self) -> int:
        return 0 if self.loader is None else len(self.loader.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.loader or ():
            yield {
                name: value.to(self.device, self.dtype if value.is_floating_point() else None)
                for name, value in batch.items()
                if name != "task"  # a tag for telemetry; the model takes no such thing
            }


def load_calibration(loaded: Loaded, plan: DataPlan) -> Calibration:
    """Read conversations and split them: every fifth is held out.

    Raises:
        UserError: data or pictures that cannot be used.
    """
    records = load_records(str(plan.data_path))
    used_records = min(plan.limit, len(records))
    records = [records[i * len(records) // used_records] for i in range(used_records)]
    check_images(records, plan.image_folder)
    folder = plan.image_folder
    dataset = ConversationDataset(records, loaded.template, loaded.tokenizer, plan.max_length, loaded.vision, folder)
    dataset.check()
    everything = range(len(records))
    held_out = [i for i in everything if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    used = [i for i in everything if i not in set(held_out)]
    return Calibration(*(_batches(loaded, dataset, part, plan.batch_size) for part in (used, held_out)))


def _batches(loaded: Loaded, dataset: ConversationDataset, indices: Sequence[int], batch_size: int) -> Batches:
    tokenizer = loaded.tokenizer
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    assert isinstance(pad, int)
    loader = DataLoader(Subset(dataset, indices), batch_size, collate_fn=Collator(pad)) if indices else None
    parameter = next(loaded.model.parameters())
    return Batches(loader, parameter.device, loaded.model.get_base_model().dtype)
