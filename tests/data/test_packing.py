"""Packing: every sample once, no row too long, rows full; what the collator makes of rows; exact lengths, kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, CLIPImageProcessorPil
from transformers.masking_utils import find_packed_sequence_indices

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset, VisionFormat
from llava_teamlora.data.packing import PackedDataset, lengths_folder, pack, token_lengths
from llava_teamlora.data.records import load_records
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError

Make = Callable[..., ConversationDataset]


def mixture(count: int, longest: int) -> list[int]:
    """Lengths with a long tail, as instruction data has."""
    rng = random.Random(0)
    return [min(longest, int(rng.lognormvariate(5.5, 0.9)) + 1) for _ in range(count)]


@pytest.mark.parametrize("window", [16, 8192])
def test_every_sample_once_and_no_row_too_long(window: int) -> None:
    lengths = mixture(1000, 2048)
    rows = pack(lengths, 2048, seed=0, window=window)
    assert sorted(i for row in rows for i in row) == list(range(1000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 2048


def test_rows_are_nearly_full() -> None:
    lengths = mixture(5000, 2048)
    rows = pack(lengths, 2048, seed=0)
    assert sum(lengths) / (len(rows) * 2048) > 0.99
    assert len(pack([1000, 1048, 1500, 548, 2048], 2048, seed=3)) == 3  # an exact fit is found


def test_rows_follow_the_seed_and_mix_the_data() -> None:
    lengths = mixture(300, 500)
    assert pack(lengths, 512, seed=1, window=64) == pack(lengths, 512, seed=1, window=64)
    assert pack(lengths, 512, seed=1, window=64) != pack(lengths, 512, seed=2, window=64)


@pytest.mark.parametrize("length", [0, 11])
def test_what_fits_no_row_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"sample 1 has {length} tokens; rows take 1 to 10"):
        pack([3, length], 10, seed=0)


# Rows as batches --------------------------------------------------------------------------------------------


def sample(length: int, pictures: int = 0, task: int | None = None) -> dict[str, torch.Tensor]:
    made = {"input_ids": torch.arange(length) + 10, "labels": torch.arange(length) + 10}
    if pictures:
        made["pixel_values"] = torch.full((pictures, 3, 2, 2), float(length))
    if task is not None:
        made["task"] = torch.tensor(task)
    return made


def test_rows_are_laid_end_to_end() -> None:
    batch = Collator(pad_token_id=0)([[sample(3, pictures=2, task=1), sample(2)], [sample(4, pictures=1)]])
    assert batch["input_ids"].tolist() == [[10, 11, 12, 10, 11], [10, 11, 12, 13, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    # No loss crosses a border: what follows a sample's last token is not its to predict.
    ignored = IGNORE_INDEX
    assert batch["labels"].tolist() == [[ignored, 11, 12, ignored, 11], [ignored, 11, 12, 13, ignored]]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [3, 3, 4]  # in the order of their places
    assert batch["task"].tolist() == [[1, 1, 1, -1, -1], [-1] * 5]
    found = find_packed_sequence_indices(batch["position_ids"])
    assert found is not None and found.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]


def test_the_collator_leaves_samples_as_they_are() -> None:
    row = [sample(3), sample(2)]
    Collator(0)([row])
    assert row[0]["labels"].tolist() == [10, 11, 12]


def test_flat_rows_are_what_flash_attention_reads() -> None:
    """FlashAttention takes one row and finds the samples' borders in the positions."""
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    rows = [[sample(3), sample(2)], [sample(4)]]
    batch = Collator(0, flat=True)(rows)
    assert batch["input_ids"].shape == (1, 9) and batch["attention_mask"].tolist() == [[1] * 3 + [2] * 2 + [3] * 4]
    (borders, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"])
    assert borders.tolist() == [0, 3, 5, 9] and longest == 4


# Data sets --------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tiny: str, colors: tuple[Path, Path]) -> Make:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    vision = VisionFormat(CLIPImageProcessorPil.from_pretrained(tiny), image_id, 16, "pad")
    data, images = colors

    def build(max_length: int = 200) -> ConversationDataset:
        return ConversationDataset(load_records(data), get_template("v1"), tokenizer, max_length, vision, images)

    return build


def rows_of(dataset: ConversationDataset, **kwargs: Any) -> PackedDataset:
    options = {"seed": 0, "by_modality": False, **kwargs}
    return PackedDataset(dataset, token_lengths(dataset), **options)


def test_lengths_are_the_samples_own(make: Make) -> None:
    dataset = make(max_length=50)  # cuts some
    lengths = token_lengths(dataset)
    assert lengths == [len(dataset[i]["input_ids"]) for i in range(24)]
    assert lengths == token_lengths(dataset, workers=2)


def test_a_row_is_its_samples(make: Make) -> None:
    dataset = make()
    rows = rows_of(dataset)
    assert sorted(i for row in rows.rows for i in row) == list(range(24)) and len(rows) < 12
    for found, index in zip(rows[0], rows.rows[0], strict=True):
        assert torch.equal(found["input_ids"], dataset[index]["input_ids"])
    assert str(rows.packed).startswith(f"packing: 24 conversations in {len(rows)} rows of at most 200 tokens")


def test_modalities_are_kept_apart_when_asked(make: Make) -> None:
    dataset = make()
    rows = rows_of(dataset, by_modality=True)
    kinds = [{bool(dataset.records[i].images) for i in row} for row in rows.rows]
    assert all(len(kind) == 1 for kind in kinds)
    assert [length > 0 for length in rows.signed_lengths] == [kind == {True} for kind in kinds]
    assert rows.lengths == [sum(rows.tokens[i] for i in row) for row in rows.rows]
    assert any(len({bool(dataset.records[i].images) for i in row}) == 2 for row in rows_of(dataset).rows)


def test_lengths_are_kept_and_follow_the_data(make: Make, tmp_path: Path, colors: tuple[Path, Path]) -> None:
    class Counting(ConversationDataset):
        encoded = 0

        def encode(self, index: int) -> Any:
            type(self).encoded += 1
            return super().encode(index)

    cache = tmp_path / "lengths"
    dataset = make()
    dataset.__class__ = Counting
    first = token_lengths(dataset, cache=cache)
    assert Counting.encoded == 24
    assert token_lengths(dataset, cache=cache) == first and Counting.encoded == 24
    (kept,) = cache.iterdir()
    kept.write_text("[1, 2")  # cut short: as if it were not there
    assert token_lengths(dataset, cache=cache) == first and Counting.encoded == 48
    colors[0].write_text(colors[0].read_text().replace("what color is it?", "what color is it then?"))
    assert token_lengths(make(), cache=cache) != first
    assert token_lengths(make(max_length=49), cache=cache) != first
    assert len(list(cache.iterdir())) == 3


def test_stale_lengths_are_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    dataset = make()
    rows = PackedDataset(dataset, [n - 1 for n in token_lengths(dataset)], 0, False)
    with pytest.raises(UserError, match=rf"record \d+ .* but had \d+ .* delete {lengths_folder()}"):
        rows[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_make_the_same_batches(make: Make, start: str) -> None:
    """Also where workers begin from nothing (spawn): data set and collator travel there."""
    rows = rows_of(make())
    here = list(DataLoader(rows, batch_size=2, collate_fn=Collator(0)))
    workers = {"fork": 2, "spawn": 1}[start]  # a spawned one imports everything anew: seconds
    there = list(DataLoader(rows, 2, collate_fn=Collator(0), num_workers=workers, multiprocessing_context=start))
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
