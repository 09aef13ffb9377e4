"""What the loader hands out: features in the place of pictures (``--vision_cache``), rows in the place of samples
(``--packing``).

In: arguments, the base, data sets. Out: data sets that read features and share their records; packed data sets. With
several processes, all of them come here at the same points. No random number is drawn from torch's own generator, so
that what is found on disk changes nothing that comes after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import Progress

from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.features import FeatureStore
from llava_teamlora.data.packing import PackedDataset, lengths_folder, token_lengths
from llava_teamlora.data.record_store import RecordStore
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base
from llava_teamlora.models.feature_cache import Tower, keep_features
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.training.outlook.plan import count_steps
from llava_teamlora.tuners import METHODS


def check_feeding(arguments: Arguments) -> None:
    """Refuse what cannot be fed, before the model is loaded.

    Raises:
        UserError: ``--packing`` with a method that puts tokens of its own in front of each row.
    """
    method = arguments.method.method
    if arguments.training.packing and "num_virtual_tokens" in METHODS[method].options:
        raise UserError(
            f"--packing: {method} puts its virtual tokens in front of a row, where only the row's first sample would "
            "see them; drop --packing True (--group_by_length True also saves padding)"
        )


def equip(
    datasets: Sequence[ConversationDataset], base: Base, arguments: Arguments, dtype: torch.dtype, console: Console
) -> None:
    """Give data sets what they read features from, if that is asked for, and a form that loader workers can share.

    Args:
        datasets: for training and validation.
        base: whose vision tower is run.
        arguments: of the run.
        dtype: of the run's mixed precision; float32 without.
        console: says what is done.

    Raises:
        UserError: see :func:`keep_features`.
    """
    names = sorted({name for dataset in datasets for record in dataset.records for name in record.images})
    features = _kept_features(base, names, arguments, dtype, console)
    for dataset in datasets:
        dataset.features = features
        if arguments.training.dataloader_num_workers:
            dataset.records = RecordStore(dataset.records)
    # Workers tokenize beside each other already; a forked tokenizer that was parallel before would warn of deadlocks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _kept_features(
    base: Base, names: Sequence[str], arguments: Arguments, dtype: torch.dtype, console: Console
) -> FeatureStore | None:
    """The store of all pictures, filled; None without ``--vision_cache`` or without pictures."""
    data, training = arguments.data, arguments.training
    vision = base.vision_format(data.image_aspect_ratio)
    if data.vision_cache is None or vision is None or not names:
        return None
    # DeepSpeed computes in the model's own dtype; elsewhere the Trainer runs under autocast.
    mixed = None if dtype == torch.float32 or training.deepspeed else dtype
    tower = Tower(base.model, vision, training.device, mixed)
    with _progress(
        console, "Running the vision tower", len(names[training.process_index :: training.world_size])
    ) as step:
        store = keep_features(
            Path(data.vision_cache),
            tower,
            [Path(str(data.image_folder)) / name for name in names],
            workers=training.dataloader_num_workers,
            rank=training.process_index,
            processes=training.world_size,
            progress=step,
        )
    PartialState().wait_for_everyone()
    console.print(f"{store.folder}: features of {len(names):,} pictures, {store.entry_bytes / 1e6:.2f} MB each")
    return store


def packed(dataset: ConversationDataset, arguments: Arguments, console: Console) -> PackedDataset:
    """Rows of a data set's samples; says how many samples a step has.

    Raises:
        UserError: a record cannot be encoded.
    """
    training = arguments.training
    # One process of a machine encodes all records; the others read what it found.
    with training.main_process_first(desc="token lengths"), _progress(console, "Counting tokens", len(dataset)) as step:
        lengths = token_lengths(dataset, training.dataloader_num_workers, lengths_folder(), step)
    rows = PackedDataset(dataset, lengths, training.shuffle_seed, training.group_by_modality_length)
    steps = count_steps(arguments, len(rows))
    console.print(str(rows.packed))
    console.print(
        f"{steps.per_epoch:,} steps an epoch of {steps.batch:,} rows each, {steps.total:,} in all; a step trains on "
        f"about {steps.batch * len(dataset) / len(rows):,.0f} conversations"
    )
    return rows


def collator(base: Base) -> Collator:
    """Pads with the tokenizer's pad token; lays packed rows as the base's attention wants them."""
    tokenizer: Any = base.tokenizer
    pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return Collator(pad_token_id, flat=base.model.config._attn_implementation == "flash_attention_2")


@contextmanager
def _progress(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
