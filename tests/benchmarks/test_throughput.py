"""The benchmarks of packing and of the vision cache run, and measure what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import packing
import pytest
import side_by_side
import torch
import vision_cache
from side_by_side import Spread


def test_packing_measures_all_ways(tmp_path: Path) -> None:
    settings = replace(packing.Settings(), conversations=60, batch=4, steps=1, rounds=1)
    found = packing.run(settings, tmp_path)
    assert list(found) == ["padded", "group_by_length", "packing"]
    assert all(figures["rate"].mean > 0 for figures in found.values()) and found["padded"]["ratio"].mean == 1
    assert found["packing"]["no_padding"] > found["padded"]["no_padding"]
    path = tmp_path / "results.json"
    side_by_side.write_results(path, "x", settings, torch.device("cpu"), {"ways": found})
    assert json.loads(path.read_text())["ways"]["padded"]["rate"]["rounds"] == 1


def test_the_vision_cache_is_measured(tmp_path: Path) -> None:
    settings = replace(vision_cache.Settings(), width=64, layers=2, size=32, pictures=4, batch=2, rounds=1)
    found = vision_cache.run(settings, tmp_path)
    assert list(found["ways"]) == ["pictures", "kept"]
    assert found["mb_a_picture"] == pytest.approx(4 * 64 * 4 / 1e6, abs=2e-4)


def test_a_ratio_is_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is twice as slow in one round says nothing about the ways."""
    ticks = iter(
        [0.0, 9, 9, 18, *(0, 1, 1, 3), *(0, 4, 4, 6)]
    )  # the first round does not count; the third is backwards
    monkeypatch.setattr(side_by_side, "clock", lambda device: next(ticks))
    found = side_by_side.measure({"one": lambda: 6, "other": lambda: 6}, 2, torch.device("cpu"))
    assert found["one"]["seconds"] == Spread.of([1, 2]) and found["other"]["seconds"] == Spread.of([2, 4])
    assert found["other"]["ratio"] == Spread(0.5, 0.0, 2)
