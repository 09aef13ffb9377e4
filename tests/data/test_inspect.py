"""``data inspect`` shows what the trainer sees: the same ids and masks, and it says what it cannot use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.cli import main
from llava_teamlora.constants import IMAGE_TOKEN_INDEX

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def llama(llama_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with vicuna's tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    llama_tokenizer(legacy=False).save_pretrained(folder)
    return str(folder)


def inspect(*flags: str) -> int:
    return main(["data", "inspect", *flags])


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("version", ["v1", "llava_llama_2", "v0"])
def test_ids_are_llavas_as_written(
    version: str, llama: str, tmp_path: Path, golden_ids: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ids.jsonl"
    flags = ("--data_path", str(GOLDEN / "records.json"), "--version", version, "--tokenizer", llama)
    assert inspect(*flags, "--model_max_length", "4096", "--json", str(path)) == 0
    assert "19 records" in capsys.readouterr().out
    golden = golden_ids["llama"][version]
    compared = 0
    for row in written(path):
        if row["id"] in golden and row["id"] not in ("an empty answer", "a leading answer", "role marks in an answer"):
            spans = golden[row["id"]]["trained"]
            labels = [t if any(a <= i < b for a, b in spans) else -100 for i, t in enumerate(row["input_ids"])]
            assert (row["input_ids"], row["labels"]) == (golden[row["id"]]["ids"], labels), row["id"]
            compared += 1
        assert row["n_images"] == row["input_ids"].count(IMAGE_TOKEN_INDEX)
    assert compared >= 14
    assert [row["n_images"] for row in written(path)][-2:] == [2, 4]


def test_truncation_counts_pictures_expanded(tiny: str, rows: list, write_json: Callable, tmp_path: Path) -> None:
    """Cut as in training: what is left is the beginning of the whole, with a picture of 16 tokens counted as 16."""
    found = {}
    for name, length in (("whole", 2048), ("cut", 56)):
        path = tmp_path / f"{name}.jsonl"
        flags = ("--data_path", write_json(rows), "--version", "v1", "--tokenizer", tiny, "--tokens_per_image", "16")
        assert inspect(*flags, "--model_max_length", str(length), "--json", str(path)) == 0
        found[name] = written(path)
    for whole, cut in zip(found["whole"], found["cut"], strict=True):
        room = 56 - 15 * cut["n_images"]
        assert cut["input_ids"] == whole["input_ids"][:room] and cut["labels"] == whole["labels"][:room]
    assert [row["n_images"] for row in found["cut"]] == [1, 1, 0]
    assert [len(whole["input_ids"]) > 41 for whole in found["whole"][:2]] == [True, True]


def test_touching_pictures_are_two(tiny: str, write_json: Callable, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image><image> alike?"}, {"from": "gpt", "value": "yes"}]
    data = write_json([{"id": "x", "image": ["a", "b"], "conversations": turns}])
    path = tmp_path / "ids.jsonl"
    assert inspect("--data_path", data, "--version", "v1", "--tokenizer", tiny, "--json", str(path)) == 0
    (row,) = written(path)
    assert row["n_images"] == 2 and len(row["input_ids"]) == len(row["labels"]) < 576
    place = row["input_ids"].index(IMAGE_TOKEN_INDEX)
    assert row["input_ids"][place : place + 2] == [IMAGE_TOKEN_INDEX] * 2


def test_samples_are_shown_with_their_masks(
    tiny: str, rows: list, write_json: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data_path", write_json(rows), "--version", "v1", "--tokenizer", tiny, "--tokens_per_image", "16")
    assert inspect(*flags, "--limit", "2") == 0
    shown = capsys.readouterr().out
    assert "record 0 (id a)" in shown and "record 1 (id b)" in shown and "record 2" not in shown
    assert "<image> x 16\nis it wide? ASSISTANT:⟦yes</s>⟧USER: is it tall? ASSISTANT:⟦no</s>⟧" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--limit", "0"), "--limit 0 must be at least 1"),
        (("--model_max_length", "0"), "--model_max_length 0 must be at least 1"),
        (("--tokens_per_image", "-1"), "--tokens_per_image -1 must be at least 1"),
        (("--version", "v2"), "--version 'v2' is not a template"),
        (("--version", "mpt"), "ends answers in '<|im_end|>', which is not one token"),
        (("--version", "llama_3"), "ends answers in '<|eot_id|>', which is not one token"),
        (("--image_folder", "nowhere"), "nowhere: no such folder"),
        (("--data_path", "none.json"), "none.json: no such file"),
        (("--model_max_length", "20"), "(id a): --model_max_length 20 would cut off a picture's tokens"),
        (("--version", "plain"), "record 1 (id b): --version plain takes one picture"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    flags: tuple[str, ...],
    message: str,
    tiny: str,
    rows: list,
    write_json: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "ids.jsonl"
    given = ("--data_path", write_json(rows), "--version", "v1", "--tokenizer", tiny, "--json", str(path))
    assert inspect(*given, *flags) == 1
    assert message in capsys.readouterr().err
    assert not path.exists()
