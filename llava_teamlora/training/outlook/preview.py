"""What a run would do, for ``--dry_run``: resolved arguments, a batch's shapes, one sample as the model sees it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.inspect import decoded_sample
from llava_teamlora.training.flags.arguments import Arguments

_SHAPE_TRAINING = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "optim", "seed",
    "bf16", "fp16", "gradient_checkpointing",
)  # fmt: skip
"""transformers' own arguments that are worth seeing even when they were not said."""
_OF_PACKED_WEIGHTS = ("quant_type", "double_quant")


def show_preview(console: Console, arguments: Arguments, dataset: ConversationDataset, collate: Collator) -> None:
    """Print the arguments, the shapes of a process's first batch, and the first sample with its trained tokens marked.

    Args:
        console: where to.
        arguments: the run's.
        dataset: the training data.
        collate: makes batches of it.
    """
    table = Table("argument", "value", title="Resolved arguments", title_justify="left")
    hidden = _OF_PACKED_WEIGHTS if arguments.model.bits == 16 else ()
    shown = {**arguments.resolved(), **{name: getattr(arguments.training, name) for name in _SHAPE_TRAINING}}
    for name, value in shown.items():
        if value is not None and name not in hidden:
            table.add_row(name, Text(str(value)))
    console.print(table)
    samples = min(arguments.training.per_device_train_batch_size, len(dataset))
    batch = collate([dataset[index] for index in range(samples)])
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.items())
    console.print(f"Batch of the first {samples} samples: {shapes}", markup=False)
    console.print(decoded_sample(dataset, 0), highlight=False, soft_wrap=True)
    console.print("Dry run: weights not read, nothing trained.")
