"""Real vocabularies and what LLaVA's own code made of them: see golden/README.md."""

from __future__ import annotations

import importlib.util
import json
import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaTokenizer

GOLDEN = Path(__file__).parent / "golden"


def read_golden(name: str) -> Any:
    """A golden file's content."""
    raw = (GOLDEN / name).read_bytes()
    return json.loads(lzma.decompress(raw) if name.endswith(".xz") else raw)


@pytest.fixture(scope="session")
def llama_words() -> dict[str, Any]:
    """Llama's ``vocab``, in the order of ids, and ``merges``."""
    return read_golden("llama.json.xz")


@pytest.fixture(scope="session")
def llama_tokenizer(llama_words: dict[str, Any]) -> Callable[..., LlamaTokenizer]:
    """Llama's 32,000 tokens, as vicuna-v1.5 has them (``legacy=False``) or as first published (``legacy=True``)."""
    vocab = {token: i for i, token in enumerate(llama_words["vocab"])}
    merges = [tuple(pair) for pair in llama_words["merges"]]

    def build(legacy: bool = False) -> LlamaTokenizer:
        return LlamaTokenizer(vocab=vocab, merges=merges, legacy=legacy, pad_token="<unk>", add_bos_token=True)

    return build


@pytest.fixture(scope="session")
def golden_ids() -> dict[str, Any]:
    """Tokenizer -> template -> record -> ``ids`` and the spans ``trained``, by LLaVA's code."""
    return read_golden("ids.json.xz")["ids"]


@pytest.fixture(scope="session")
def make_golden() -> Any:
    """The script that made the golden files."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden_tokenizer(llama_tokenizer: Callable[..., LlamaTokenizer], make_golden: Any) -> Callable[[str], Any]:
    """The tokenizer that a part of ids.json.xz was made with, by the part's name."""

    @cache
    def build(name: str) -> Any:
        if name in ("llama_3", "bytes"):
            words = read_golden("llama_3.json.xz")
            merges = [tuple(pair) for pair in words["merges"]]
            return make_golden.fast_llama_3(words["vocab"], merges, bos=name == "llama_3")
        tokenizer = llama_tokenizer("legacy" in name)
        tokenizer.add_tokens([*make_golden.IM_TOKENS, *make_golden.CHATML_TOKENS], special_tokens=True)
        return tokenizer

    return build
