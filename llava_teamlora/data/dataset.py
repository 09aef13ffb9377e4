"""Records -> training samples, one at a time.

In: checked records, a template, a tokenizer, an image processor. Out: dicts of ``input_ids [T]``, ``labels [T]``
and, for records with pictures, ``pixel_values [n, 3, H, W]`` (with a store of features ``[n, P, D]``: what the vision
tower makes of them); for records with a task tag ``task []``, its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llava_teamlora.data.features import FeatureStore
from llava_teamlora.data.images import load_image, prepare_image
from llava_teamlora.data.records import Record
from llava_teamlora.data.segments import Template
from llava_teamlora.data.tokenize import Encoded, encode_turns, expand_images, truncate
from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class VisionFormat:
    """What a sample needs to know of the vision side.

    Attributes:
        image_processor: transformers image processor of the vision tower.
        image_token_id: id of ``<image>`` in the model's vocabulary.
        tokens_per_image: patch features a picture becomes.
        aspect_ratio: ``pad`` or ``square``.
    """

    image_processor: Any
    image_token_id: int
    tokens_per_image: int
    aspect_ratio: str


@dataclass(frozen=True)
class Checked:
    """Records encoded in a check, and how many of them lose their end to the length limit."""

    looked_at: int
    truncated: int


class ConversationDataset(Dataset):
    """LLaVA conversations as tokens, labels and pixels.

    Args:
        records: checked records.
        template: how turns become text.
        tokenizer: fast tokenizer.
        max_length: longest sample in tokens, pictures expanded (``--model_max_length``).
        vision: None for a text-only model.
        image_folder: folder the records' picture paths are relative to.
        features: where the vision tower's outputs for all the pictures lie; None gives pixels.

    Attributes:
        tasks: the records' task tags, each once, in alphabetical order.

    Raises:
        UserError: a record has a picture but the model takes none.
    """

    def __init__(
        self,
        records: Sequence[Record],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        vision: VisionFormat | None = None,
        image_folder: str | Path | None = None,
        features: FeatureStore | None = None,
    ) -> None:
        self.records = records
        self.template = template
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.vision = vision
        self.image_folder = Path(image_folder) if image_folder is not None else None
        self.features = features
        self.tasks = tuple(sorted({record.task for record in records if record.task is not None}))
        with_picture = next((record for record in records if record.images), None)
        if with_picture is not None and (vision is None or self.image_folder is None):
            lacks = "the model takes no pictures" if vision is None else "no --image_folder is given"
            raise UserError(f"{with_picture.where}: has a picture, but {lacks}")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def signed_lengths(self) -> list[int]:
        """Words of each record, negative for text-only ones: what ``--group_by_modality_length`` sorts by."""
        return [max(1, record.words) * (1 if record.images else -1) for record in self.records]

    @property
    def lengths(self) -> list[int]:
        """Words and picture tokens of each record: what ``--group_by_length`` sorts by."""
        picture = self.vision.tokens_per_image if self.vision is not None else 0
        return [max(1, record.words + picture * len(record.images)) for record in self.records]

    def encode(self, index: int) -> Encoded:
        """Ids and labels of one record, pictures expanded and length limited."""
        image_token_id = self.vision.image_token_id if self.vision is not None else -1
        return truncate(self.encode_whole(index), self.max_length, image_token_id, self.records[index].where)

    def encode_whole(self, index: int) -> Encoded:
        """Ids and labels of one record, pictures expanded, however long."""
        record = self.records[index]
        try:
            encoded = encode_turns(self.template, record.turns, self.tokenizer)
        except UserError as error:
            raise UserError(f"{record.where}: {error}") from error
        if encoded.images != len(record.images):
            raise UserError(f"{record.where}: {encoded.images} picture places for {len(record.images)} pictures")
        if self.vision is None:
            return encoded
        return expand_images(encoded, self.vision.image_token_id, self.vision.tokens_per_image)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        record = self.records[index]
        encoded = self.encode(index)
        sample = {
            "input_ids": torch.tensor(encoded.input_ids),
            "labels": torch.tensor(encoded.labels),
        }
        if record.images:
            sample["pixel_values"] = torch.stack([self._pixels(record, name) for name in record.images])
        if record.task is not None:
            sample["task"] = torch.tensor(self.tasks.index(record.task))
        return sample

    def _pixels(self, record: Record, name: str) -> torch.Tensor:
        assert self.vision is not None and self.image_folder is not None  # refused in __init__
        path = self.image_folder / name
        try:
            if self.features is not None:
                return self.features.read(path)
            return prepare_image(load_image(path), self.vision.image_processor, self.vision.aspect_ratio)
        except UserError as error:
            raise UserError(f"{record.where}: {error}") from error

    def check(self, limit: int = 1000) -> Checked:
        """Encode up to ``limit`` records, evenly spread, so that a hopeless data set is refused at once.

        Raises:
            UserError: a record cannot be encoded, or none of them has a trained token.
        """
        step = -(-len(self.records) // limit)
        looked_at = range(0, len(self.records), step)
        trained = truncated = 0
        for index in looked_at:
            truncated += len(self.encode_whole(index).input_ids) > self.max_length
            trained += self.encode(index).trained_tokens
        if not trained:
            raise UserError(
                f"{self.records[0].source}: no record has a trained token within --model_max_length "
                f"{self.max_length}; every loss would be empty"
            )
        return Checked(len(looked_at), truncated)
