"""A run before its weights are read: what trains, how much memory, how many steps.

In: arguments and data. Out: an :class:`Outline`, made by the functions that make the real thing, and its tables. All of
it comes from configs, tokenizer and data; it takes a second or two for 7B.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from PIL import Image
from rich.console import Console
from transformers import PreTrainedModel

from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.images import prepare_image
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, load_base
from llava_teamlora.models.outline import outlining
from llava_teamlora.training.adapt import adapt
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.training.outlook.memory import Estimate, estimate_memory, setup_of, show_estimate
from llava_teamlora.training.outlook.rehearsal import BatchShape

_LONGEST = 16
"""Records with the most words whose tokens are counted to find the longest."""


@dataclass(frozen=True)
class Outline:
    """A base and the model to train, on the meta device.

    Attributes:
        base: with its real tokenizer and image processor.
        model: with the method on it.
    """

    base: Base
    model: PeftModel | PreTrainedModel


@dataclass(frozen=True)
class Steps:
    """How long a run is.

    Attributes:
        per_epoch: optimizer steps of one pass over the data.
        total: of the run.
        warmup: of them, those with a rising learning rate.
        batch: samples a step, over all processes and accumulations.
    """

    per_epoch: int
    total: int
    warmup: int
    batch: int

    def __str__(self) -> str:
        return (
            f"{self.per_epoch:,} steps an epoch of {self.batch:,} samples each, {self.total:,} in all, {self.warmup:,} "
            "of them warm-up"
        )


def outline_run(arguments: Arguments, dtype: torch.dtype) -> Outline:
    """Base and model as the run will have them, without weights.

    Args:
        arguments: the run's.
        dtype: of the base's weights.

    Raises:
        UserError: whatever the real ones are refused for, but for their weights.
    """
    with outlining():
        # A quantised linear is outlined as a plain one: its adapter is the same.
        base = load_base(replace(arguments.model.base(), bits=16), dtype, arguments.model.attn_implementation)
        return Outline(base, adapt(base, arguments))


def estimate_run(outline: Outline, arguments: Arguments, dataset: ConversationDataset) -> Estimate:
    """Memory of the run's largest batch. The outline's model is used up.

    Args:
        outline: of the run.
        arguments: the run's.
        dataset: what it trains on.
    """
    return estimate_memory(outline.model, setup_of(arguments, largest_batch(arguments, dataset)))


def show_plan(console: Console, outline: Outline, arguments: Arguments, dataset: ConversationDataset) -> None:
    """Print steps and memory of the run. The outline's model is used up.

    Args:
        console: where to; a quiet one (of all processes but the first) estimates nothing.
        outline: of the run.
        arguments: the run's.
        dataset: what it trains on.

    Raises:
        UserError: see :func:`count_steps`.
    """
    steps = (
        None if arguments.training.packing else count_steps(arguments, len(dataset))
    )  # all processes refuse what has none
    if console.quiet:
        return
    console.print("How many steps: known when the samples have been packed" if steps is None else str(steps))
    show_estimate(console, estimate_run(outline, arguments, dataset))


def largest_batch(arguments: Arguments, dataset: ConversationDataset) -> BatchShape:
    """A process's batch of nothing but the longest sample, with the most pictures.

    Which sample is longest is told by words, as the length-grouping sampler does, and its tokens are counted.
    """
    training = arguments.training
    samples = training.per_device_train_batch_size
    if training.packing:
        tokens = training.model_max_length
    else:
        longest = heapq.nlargest(_LONGEST, range(len(dataset)), key=dataset.lengths.__getitem__)
        tokens = max(len(dataset.encode(index).input_ids) for index in longest)
    pictures = max(len(record.images) for record in dataset.records)
    if dataset.vision is None or not pictures:
        return BatchShape(samples, tokens)
    if training.packing:
        pictures = max(pictures, tokens // dataset.vision.tokens_per_image)
    blank = prepare_image(Image.new("RGB", (4, 4)), dataset.vision.image_processor, dataset.vision.aspect_ratio)
    return BatchShape(samples, tokens, samples * pictures, tuple(blank.shape))


def count_steps(arguments: Arguments, samples: int) -> Steps:
    """Steps of a run, as transformers' Trainer counts them (``set_initial_training_values``).

    Args:
        arguments: the run's.
        samples: in the training data; packed rows, where samples are packed.

    Raises:
        UserError: there is no whole batch, and ``--dataloader_drop_last`` leaves out any other.
    """
    training = arguments.training
    each = training.train_batch_size * training.world_size
    batches = samples // each if training.dataloader_drop_last else math.ceil(samples / each)
    if not batches:
        what = "packed rows" if training.packing else "samples"
        raise UserError(
            f"--dataloader_drop_last True: {samples:,} {what} make no whole batch of {each:,} "
            f"({training.train_batch_size:,} on each of {training.world_size:,} processes), so "
            "nothing would be trained on; drop the flag, or lower --per_device_train_batch_size"
        )
    accumulated = training.gradient_accumulation_steps
    per_epoch = max(math.ceil(batches / accumulated), 1)
    total = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * per_epoch)
    return Steps(per_epoch, total, training.get_warmup_steps(total), each * accumulated)
