"""One sample as the model is trained on it: for people in colours, for programs as ids.

In: a data set, which encodes as in training. Out: a coloured text, or a JSON row.
"""

from __future__ import annotations

import itertools
from typing import Any

from rich.text import Text

from llava_teamlora.constants import IGNORE_INDEX, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava_teamlora.data.dataset import ConversationDataset


def decoded_sample(dataset: ConversationDataset, index: int) -> Text:
    """One sample's text; what carries a loss stands in green between ⟦ and ⟧ (so that it shows in a log too)."""
    encoded = dataset.encode(index)
    tokens = list(zip(encoded.input_ids, encoded.labels, strict=True))
    text = Text(f"{dataset.records[index].where}, {len(tokens)} tokens, {encoded.trained_tokens} trained:\n")
    for (trained, picture), run in itertools.groupby(tokens, key=lambda token: _kind(token, dataset)):
        ids = [token for token, _ in run]
        piece = f"{IMAGE_TOKEN} x {len(ids)}" if picture else str(dataset.tokenizer.decode(ids))
        text.append(f"⟦{piece}⟧" if trained else piece, style="green" if trained else "dim")
    return text


def encoded_row(dataset: ConversationDataset, index: int) -> dict[str, Any]:
    """One sample as LLaVA's own ids: ``{id, input_ids, labels, n_images}``, each picture one ``IMAGE_TOKEN_INDEX``.

    The length limit counts pictures expanded, as in training.
    """
    encoded = dataset.encode(index)
    tokens: list[tuple[int, int]] = []
    images = 0
    for (_, picture), run in itertools.groupby(
        zip(encoded.input_ids, encoded.labels, strict=True), key=lambda token: _kind(token, dataset)
    ):
        some = list(run)
        if picture and dataset.vision is not None:  # pictures may touch, and are kept whole
            some = [(IMAGE_TOKEN_INDEX, IGNORE_INDEX)] * (len(some) // dataset.vision.tokens_per_image)
            images += len(some)
        tokens += some
    return {
        "id": dataset.records[index].id,
        "input_ids": [token for token, _ in tokens],
        "labels": [label for _, label in tokens],
        "n_images": images,
    }


def _kind(token: tuple[int, int], dataset: ConversationDataset) -> tuple[bool, bool]:
    picture = dataset.vision is not None and token[0] == dataset.vision.image_token_id
    return token[1] != IGNORE_INDEX, picture
