"""Vicuna's folder holds Llama's ``tokenizer.model`` alone; what is read from it are the ids that LLaVA trains on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llava_teamlora.data.records import parse_record
from llava_teamlora.data.templates import get_template
from llava_teamlora.data.tokenize import encode
from llava_teamlora.models.tokenizer import load_tokenizer

pytest.importorskip("sentencepiece")
RECORDS = json.loads((Path(__file__).parent / "golden" / "records.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def vicuna(make_golden: Any, llama_words: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub's folder of vicuna-v1.5 holds of a tokenizer."""
    folder = tmp_path_factory.mktemp("vicuna")
    (folder / "tokenizer.model").write_bytes(make_golden.sentencepiece_model(llama_words["vocab"]))
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.mark.parametrize("version", ["v1", "llava_llama_2", "v0"])
def test_ids_are_llavas(version: str, vicuna: Path, golden_ids: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(str(vicuna))
    for row in RECORDS:
        if row["id"] in golden_ids["llama"][version] and row["id"] not in ("an empty answer", "a leading answer"):
            turns = parse_record(row, source="records.json", index=0).turns
            found = encode(get_template(version).segments(turns), tokenizer).input_ids
            assert found == golden_ids["llama"][version][row["id"]]["ids"], row["id"]


def test_spaces_are_sentencepieces_also_after_saving(
    vicuna: Path, tmp_path: Path, llama_tokenizer: Callable[..., Any]
) -> None:
    """transformers' own reading takes runs of spaces before words: two spaces and a word became two other tokens."""
    from sentencepiece import SentencePieceProcessor  # pyright: ignore[reportMissingImports]

    pieces = SentencePieceProcessor(model_file=str(vicuna / "tokenizer.model"))
    tokenizer = load_tokenizer(str(vicuna))
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for n in range(1, 40):
        text = f"a{' ' * n}word\n{' ' * n}return"
        expected = [1, *pieces.encode(text)]
        assert tokenizer(text).input_ids == saved(text).input_ids == expected
        assert llama_tokenizer()(text).input_ids == expected
