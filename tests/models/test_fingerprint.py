"""A fingerprint follows what a base computes, and nothing else."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_teamlora.errors import UserError
from llava_teamlora.models.fingerprint import fingerprint
from llava_teamlora.models.pretrained import read_weights


def weights(changed: str | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {f"model.layers.{i}.weight": torch.randn(512, 64, generator=generator) for i in range(4)}
    if changed is not None:  # a low-rank update, as a merge makes it
        update = torch.randn(512, 2, generator=generator) @ torch.randn(2, 64, generator=generator)
        found[changed] += 1e-3 * update
    return found


def folder(path: Path, files: dict[str, dict[str, torch.Tensor]], **config: object) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        if name.endswith(".bin"):
            torch.save(content, path / name)
        else:
            save_file(content, path / name)
    return str(path)


def test_place_format_and_sharding_do_not_count(tmp_path: Path) -> None:
    whole = weights()
    names = sorted(whole)
    shards = {f"model-{i}-of-2.safetensors": {name: whole[name] for name in names[i::2]} for i in range(2)}
    found = {
        fingerprint(folder(tmp_path / "one", {"model.safetensors": whole}, a=1)),
        fingerprint(folder(tmp_path / "two", shards, a=1)),
        fingerprint(folder(tmp_path / "three", {"pytorch_model.bin": whole}, a=1)),
    }
    assert len(found) == 1


@pytest.mark.parametrize("name", sorted(weights()))
def test_an_update_of_any_one_weight_counts(tmp_path: Path, name: str) -> None:
    """Also of one in the middle of a file, which its first and last MiB would not show."""
    before = fingerprint(folder(tmp_path / "before", {"model.safetensors": weights()}))
    assert fingerprint(folder(tmp_path / "after", {"model.safetensors": weights(name)})) != before


def test_config_dtype_and_names_count(tmp_path: Path) -> None:
    half = {name: weight.half() for name, weight in weights().items()}
    renamed = {name.replace("layers", "blocks"): weight for name, weight in weights().items()}
    made = [({"a": 1}, weights()), ({"a": 2}, weights()), ({"a": 1}, half), ({"a": 1}, renamed)]
    found = {
        fingerprint(folder(tmp_path / str(i), {"model.safetensors": content}, **config))
        for i, (config, content) in enumerate(made)
    }
    assert len(found) == 4


def test_a_large_file_is_not_read_through(tmp_path: Path) -> None:
    name = folder(tmp_path / "large", {"model.safetensors": {"w": torch.zeros(128 << 20, dtype=torch.uint8)}})
    started = time.perf_counter()
    fingerprint(name)
    assert time.perf_counter() - started < 0.1  # hashing all of it takes longer


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_bin_file_is_not_held_in_memory(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(64 << 20, dtype=torch.uint8)}, tmp_path / "pytorch_model.bin")
    before = anonymous_kib()
    found = read_weights(str(tmp_path / "pytorch_model.bin"))
    assert found["w"].sum() == 64 << 20
    assert anonymous_kib() - before < 32 << 10


def anonymous_kib() -> int:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_a_bin_file_of_before_torch_1_6_is_read(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = read_weights(str(tmp_path / "pytorch_model.bin"))
    assert all(torch.equal(found[name], weight) for name, weight in weights().items())


def test_a_folder_without_weights_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        fingerprint(folder(tmp_path / "bare", {}))
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="is no file of weights"):
        fingerprint(str(tmp_path / "bare"))
