"""A three-picture easy-VQA made here, in the package's own layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa

TRAIN = [
    ["what shape is it?", "circle", 0],
    ["what shape is it?", "circle", 1],
    ["what shape is it?", "triangle", 2],
    ["is it red?", "no", 0],
    ["is it red?", "yes", 1],
    ["is it red?", "no", 2],
    ["what color is it?", "red", 1],
    ["is there a circle?", "no", 2],
    ["is there a circle?", "no", 3],
]
TEST = [
    ["what shape is it?", "circle", 0],
    ["is it red?", "yes", 0],
    ["what color is it?", "red", 0],
    ["what shape is it?", "rectangle", 1],
    ["is it red?", "no", 1],
    ["is there a circle?", "no", 1],
    ["what color is it?", "blue", 2],
    ["is it not there at all?", "no", 2],
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of benchmarks with easy-VQA in it: four training pictures' questions, three test pictures."""
    folder = tmp_path / "eval" / "easy-vqa"
    for split, questions in (("train", TRAIN), ("test", TEST)):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "questions.json").write_text(json.dumps(questions))
    for number, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 64), color).save(folder / "test" / "images" / f"{number}.png")
    return folder.parent


@pytest.fixture
def write_answers(root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write answers, one a test question, as our runner would; ``change`` may edit the rows first."""

    def write(texts: list[str], change: Callable[[list[dict[str, Any]]], object] | None = None) -> Path:
        samples = EasyVqa().load(root)
        rows = [answer_row(sample, text, "m") for sample, text in zip(samples, texts, strict=True)]
        if change is not None:
            change(rows)
        path = tmp_path / "answers" / "predictions.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
