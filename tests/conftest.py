"""What all tests share: the embedded base, a few drawn pictures and LLaVA records about them."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: no test looks outside this machine

ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """What is there before the first test stays: thousands of tests, and modules, that no collection need look at."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Extensions look at the end for what was never collected."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny() -> str:
    """Folder of the embedded base."""
    return str(ROOT / "playground" / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with red.png (square), wide.png and tall.jpg."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(folder / "red.png")
    Image.new("RGB", (80, 40), (0, 255, 0)).save(folder / "wide.png")
    Image.new("RGB", (30, 90), (0, 0, 255)).save(folder / "tall.jpg")
    return folder


def conversation(*turns: str) -> list[dict[str, str]]:
    """human, gpt, human, … from plain texts."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Raw LLaVA records: two with a picture, one of two turns, one text-only."""
    return [
        {"id": "a", "image": "red.png", "conversations": conversation("<image>\nwhat color is it?", "red")},
        {
            "id": "b",
            "image": "wide.png",
            "conversations": conversation("is it wide? <image>", "yes", "is it tall?", "no"),
        },
        {"id": "c", "conversations": conversation("what is the opposite of yes?", "no")},
    ]


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[Any], str]:
    """Write something as JSON and return the file's path."""

    def write(content: Any, name: str = "data.json") -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return write


_COLORS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


@pytest.fixture
def colors(tmp_path: Path) -> tuple[Path, Path]:
    """24 conversations, a third of them text-only, and their pictures: (data.json, picture folder)."""
    folder = tmp_path / "data"
    images = folder / "images"
    images.mkdir(parents=True)
    rows = []
    for index in range(24):
        name, color = list(_COLORS.items())[index % 4]
        turns = [{"from": "human", "value": "what color is it?"}, {"from": "gpt", "value": name}]
        row: dict = {"id": str(index), "conversations": turns}
        if index % 3:
            Image.new("RGB", (40 + index, 50), color).save(images / f"{index}.png")
            row["image"] = f"{index}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        rows.append(row)
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path, images
