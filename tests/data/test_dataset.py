"""From records to padded batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset, VisionFormat
from llava_teamlora.data.records import load_records
from llava_teamlora.data.templates import TEMPLATES
from llava_teamlora.errors import UserError

Make = Callable[..., ConversationDataset]


@pytest.fixture
def make(tiny: str, pictures: Path, write_json: Callable[..., str]) -> Make:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    vision = VisionFormat(CLIPImageProcessorPil.from_pretrained(tiny), image_id, 16, "pad")

    def build(rows: list[dict[str, Any]], max_length: int = 512, **kwargs: Any) -> ConversationDataset:
        options = {"vision": vision, "image_folder": pictures, **kwargs}
        return ConversationDataset(load_records(write_json(rows)), TEMPLATES["v1"], tokenizer, max_length, **options)

    return build


def test_samples_and_batch(make: Make, rows: list[dict]) -> None:
    dataset = make(rows)
    samples = [dataset[i] for i in range(3)]
    image_id = dataset.vision.image_token_id  # type: ignore[union-attr]
    assert [int((s["input_ids"] == image_id).sum()) for s in samples] == [16, 16, 0]
    assert "pixel_values" not in samples[2]
    batch = Collator(pad_token_id=0)(samples)
    longest = max(len(s["input_ids"]) for s in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, longest)
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    for row, sample in enumerate(samples):
        n = len(sample["input_ids"])
        assert torch.equal(batch["input_ids"][row, :n], sample["input_ids"])
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (longest - n)
        assert (batch["labels"][row, n:] == IGNORE_INDEX).all()


def test_text_only_batch_has_no_pixels(make: Make, rows: list[dict]) -> None:
    assert "pixel_values" not in Collator(0)([make(rows)[2]])


def test_tasks_travel_as_numbers(make: Make, rows: list[dict]) -> None:
    assert make(rows).tasks == () and "task" not in Collator(0)([make(rows)[0]])
    rows[0]["task"], rows[2]["task"] = "vqa", "talk"
    dataset = make(rows)
    assert dataset.tasks == ("talk", "vqa")
    assert Collator(0)([dataset[i] for i in range(3)])["task"].tolist() == [1, -1, 0]


def test_signed_lengths(make: Make, rows: list[dict]) -> None:
    rows[2]["conversations"][0]["value"] = ""
    rows[2]["conversations"][1]["value"] = ""
    assert make(rows).signed_lengths == [6, 9, -1]  # an empty conversation still has a modality


def test_hopeless_data_is_refused(make: Make, rows: list[dict]) -> None:
    dataset = make(rows)
    assert (dataset.check().looked_at, dataset.check().truncated) == (3, 0)
    assert dataset.check(limit=2).looked_at == 2
    image_id = dataset.vision.image_token_id  # type: ignore[union-attr]
    inside = dataset.encode(0).input_ids.index(image_id) + 2
    with pytest.raises(UserError, match="would cut off a picture"):
        make(rows, max_length=inside).check()
    with pytest.raises(UserError, match="no record has a trained token"):
        make(rows[2:], max_length=5).check()


def test_lost_ends_are_counted(make: Make, rows: list[dict]) -> None:
    lengths = sorted(len(make(rows).encode(i).input_ids) for i in range(3))
    checked = make(rows, max_length=lengths[-1] - 1).check()
    assert checked.truncated == 1


def test_pictures_need_folder_and_model(make: Make, rows: list[dict]) -> None:
    with pytest.raises(UserError, match=r"record 0 \(id a\): has a picture, but no --image_folder"):
        make(rows, image_folder=None)
    with pytest.raises(UserError, match="the model takes no pictures"):
        make(rows, vision=None)
    assert len(make(rows[2:], vision=None, image_folder=None)[0]["input_ids"]) > 5


def test_a_picture_that_breaks_later_names_its_record(make: Make, rows: list[dict], pictures: Path) -> None:
    dataset = make(rows)
    (pictures / "red.png").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"record 0 \(id a\): .*red.png: not a readable picture"):
        dataset[0]
