"""A run on kept features is the run on pictures, bit for bit; the store is checked, shared, and never half filled."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava_teamlora.data.features import FeatureStore, open_store
from llava_teamlora.errors import UserError
from llava_teamlora.models import feature_cache, llava
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.feature_cache import Tower, keep_features
from llava_teamlora.training.run import train

Train = Callable[..., Path]


def content(run: Path) -> tuple[bytes, list[float]]:
    """Weights byte by byte, and all losses."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    losses = [entry[name] for entry in history for name in ("loss", "eval_loss") if name in entry]
    return (run / "adapter_model.safetensors").read_bytes(), losses


@pytest.mark.parametrize("extra", [(), ("--bf16", "True"), ("--dataloader_num_workers", "2")])
def test_equal_runs(trained: Train, tmp_path: Path, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained("--output_dir", str(tmp_path / "plain"), *extra)
    cache = ("--vision_cache", str(tmp_path / "cache"))
    filling = trained("--output_dir", str(tmp_path / "filling"), *cache, *extra)
    assert content(filling) == content(plain)

    def never(*args: Any) -> None:
        raise AssertionError("the tower runs although all its outputs are kept")

    monkeypatch.setattr(llava, "tower_features", never)
    filled = trained("--output_dir", str(tmp_path / "filled"), *cache, *extra)
    assert content(filled) == content(plain)


def test_packed_rows_and_several_pictures(trained: Train, argv: list[str], tmp_path: Path) -> None:
    data = Path(argv[argv.index("--data_path") + 1])
    rows = json.loads(data.read_text())
    rows[1]["image"] = ["1.png", "2.png"]
    rows[1]["conversations"][0]["value"] = "<image>\n<image>\nwhat colors are they?"
    data.write_text(json.dumps(rows))
    flags = ("--packing", "True", "--model_max_length", "200", "--per_device_train_batch_size", "2")
    plain = trained("--output_dir", str(tmp_path / "plain"), *flags)
    kept = trained("--output_dir", str(tmp_path / "kept"), "--vision_cache", str(tmp_path / "cache"), *flags)
    assert content(kept) == content(plain)


def test_a_run_goes_on_with_or_without_it(trained: Train, argv: list[str], tmp_path: Path) -> None:
    """It changes no number, so it is no property of the run."""
    straight = trained("--output_dir", str(tmp_path / "straight"), "--save_total_limit", "9")
    (tmp_path / "resumed").mkdir()
    shutil.copytree(straight / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    cache = ("--vision_cache", str(tmp_path / "cache"))
    resumed = trained("--output_dir", str(tmp_path / "resumed"), "--save_total_limit", "9", *cache)
    assert content(resumed)[0] == content(straight)[0]


def test_a_dry_run_fills_nothing(argv: list[str], tmp_path: Path) -> None:
    assert train([*argv, "--dry_run", "True", "--vision_cache", str(tmp_path / "cache")]) == 0
    assert not (tmp_path / "cache").exists()


# The store --------------------------------------------------------------------------------------------------


@pytest.fixture
def tower(tiny: str) -> Tower:
    base = load_base(BaseSpec(tiny), torch.float32, "sdpa")
    vision = base.vision_format("pad")
    assert vision is not None
    return Tower(base.model, vision, torch.device("cpu"))


@pytest.fixture
def some(pictures: Path) -> list[Path]:
    return sorted(pictures.iterdir())


def entries(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("*/*.safetensors"))


def test_features_are_the_towers(tower: Tower, some: list[Path], tmp_path: Path) -> None:
    store = keep_features(tmp_path, tower, some)
    assert len(entries(store)) == 3
    for picture in some:
        pixels = feature_cache._Pixels([picture], tower.vision)[0].unsqueeze(0)
        with torch.no_grad():
            states = tower.module(pixels, output_hidden_states=True).hidden_states
        assert torch.equal(store.read(picture), states[-2][0, 1:])


def test_only_what_is_missing_is_computed(tower: Tower, some: list[Path], tmp_path: Path) -> None:
    seen: list[int] = []
    keep_features(tmp_path, tower, some[:1], progress=seen.append)
    first = entries(keep_features(tmp_path, tower, some[:1]))[0]
    written = first.stat().st_mtime_ns
    (tmp_path / "copy.png").write_bytes(some[0].read_bytes())  # the same content under another name
    store = keep_features(tmp_path, tower, [*some, tmp_path / "copy.png"], batch=1, progress=seen.append)
    assert len(entries(store)) == 3 and first.stat().st_mtime_ns == written and sum(seen) == 1 + 4
    assert torch.equal(store.read(tmp_path / "copy.png"), store.read(some[0]))


def test_shares_cover_everything(tower: Tower, some: list[Path], tmp_path: Path) -> None:
    """As several processes would, here one after the other."""
    for rank in range(2):
        store = keep_features(tmp_path, tower, some, rank=rank, processes=2)
    assert len(entries(store)) == 3


def test_another_tower_layer_or_preprocessing_has_its_own_folder(
    tower: Tower, some: list[Path], tmp_path: Path
) -> None:
    import dataclasses

    folders = [keep_features(tmp_path, tower, some).folder]
    square = dataclasses.replace(tower, vision=dataclasses.replace(tower.vision, aspect_ratio="square"))
    folders.append(keep_features(tmp_path, square, some).folder)
    tower.model.config.vision_feature_layer = -1
    folders.append(keep_features(tmp_path, tower, some).folder)
    with torch.no_grad():
        next(tower.module.parameters())[0] += 1
    folders.append(keep_features(tmp_path, tower, some).folder)
    assert len(set(folders)) == 4


def test_a_changed_picture_is_told(tower: Tower, some: list[Path], tmp_path: Path) -> None:
    store = keep_features(tmp_path, tower, some)
    Image.new("RGB", (64, 64), (1, 2, 3)).save(some[0])
    with pytest.raises(UserError, match="has changed since its features were computed"):
        store.read(some[0])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_entry_is_refused(tower: Tower, some: list[Path], tmp_path: Path, damage: str) -> None:
    store = keep_features(tmp_path, tower, some)
    entry = store.entry(some[0])
    whole = entry.read_bytes()
    other = store.entry(some[1]).read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    entry.write_bytes({"flip": flipped, "cut": whole[:-9], "empty": b"", "other": b"x" * 99}[damage])
    with pytest.raises(UserError, match=f"{entry}: is damaged"):
        store.read(some[0])
    assert store.entry(some[1]).read_bytes() == other
    if damage != "flip":  # what is short is seen at the start, and made anew
        assert torch.equal(keep_features(tmp_path, tower, some).read(some[0]), torch.as_tensor(load(whole)))


def load(data: bytes) -> torch.Tensor:
    from safetensors.torch import load as load_bytes

    return load_bytes(data)["features"]


def test_many_may_write_at_once(tmp_path: Path) -> None:
    features = torch.arange(4096, dtype=torch.float32).view(64, 64)
    store = open_store(tmp_path, {"tower": "x"}, (64, 64), torch.float32)
    (tmp_path / "a").write_bytes(b"a")
    entry = store.entry(tmp_path / "a")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: (store.write(entry, features), store.read(tmp_path / "a")), range(40)))
    assert torch.equal(store.read(tmp_path / "a"), features)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]  # nothing half-written is left
    with pytest.raises(ValueError, match="features for"):
        store.write(entry, features.half())


def test_a_disk_too_small_is_told_before(
    tower: Tower, some: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 100, 100))
    with pytest.raises(
        UserError, match=r"features of 3 pictures \(0.01 MB each\) need 0.0 GB more, but 0.0 GB are free"
    ):
        keep_features(tmp_path, tower, some)
    assert not list(tmp_path.glob("*/*/*.safetensors"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(tower: Tower, some: list[Path], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        keep_features(tmp_path, tower, some)
