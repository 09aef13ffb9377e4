"""What a run would do, for ``--dry_run``: resolved arguments, a batch's shapes, one sample as the model sees it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.inspect import decoded_sample
from llava_teamlora.training.arguments import Arguments


def show_preview(console: Console, arguments: Arguments, dataset: ConversationDataset, collate: Collator) -> None:
    """Print the arguments, the shapes of a process's first batch, and the first sample with its trained tokens marked.

    Args:
        console: where to.
        arguments: the run's.
        dataset: the training data.
        collate: makes batches of it.
    """
    table = Table("argument", "value", title="Resolved arguments", title_justify="left")
    for name, value in arguments.resolved().items():
        if value is not None:
            table.add_row(name, Text(str(value)))
    console.print(table)
    samples = min(arguments.training.per_device_train_batch_size, len(dataset))
    batch = collate([dataset[index] for index in range(samples)])
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.items())
    console.print(f"Batch of the first {samples} samples: {shapes}", markup=False)
    console.print(decoded_sample(dataset, 0), highlight=False, soft_wrap=True)
    console.print("Dry run: weights not read, nothing trained.")
