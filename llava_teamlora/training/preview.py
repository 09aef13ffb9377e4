"""What a run would do, for ``--dry_run``: resolved arguments and one sample as the model sees it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_teamlora.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_teamlora.data.dataset import ConversationDataset


def show_preview(console: Console, arguments: dict[str, Any], dataset: ConversationDataset) -> None:
    """Print the arguments, and the first sample with its trained tokens marked.

    Args:
        console: where to.
        arguments: resolved flags.
        dataset: the training data.
    """
    table = Table("argument", "value", title="Resolved arguments", title_justify="left")
    for name, value in arguments.items():
        if value is not None:
            table.add_row(name, Text(str(value)))
    console.print(table)
    console.print(decoded_sample(dataset, 0), highlight=False, soft_wrap=True)


def decoded_sample(dataset: ConversationDataset, index: int) -> Text:
    """One sample's text; what carries a loss stands in green between ⟦ and ⟧ (so that it shows in a log too)."""
    encoded = dataset.encode(index)
    tokens = list(zip(encoded.input_ids, encoded.labels, strict=True))
    text = Text(f"{dataset.records[index].where}, {len(tokens)} tokens, {encoded.trained_tokens} trained:\n")
    start = 0
    while start < len(tokens):
        trained, picture = _kind(tokens[start], dataset)
        end = start
        while end < len(tokens) and _kind(tokens[end], dataset) == (trained, picture):
            end += 1
        if picture:
            piece = f"{IMAGE_TOKEN} x {end - start}"
        else:
            piece = str(dataset.tokenizer.decode([token for token, _ in tokens[start:end]]))
        text.append(f"⟦{piece}⟧" if trained else piece, style="green" if trained else "dim")
        start = end
    return text


def _kind(token: tuple[int, int], dataset: ConversationDataset) -> tuple[bool, bool]:
    picture = dataset.vision is not None and token[0] == dataset.vision.image_token_id
    return token[1] != IGNORE_INDEX, picture
