"""Single tokens as text and bytes: together they are the text that was tokenized."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_teamlora.serving.api.spelling import spelled

TEXT = "what color? it's 世界 é 🎈 <a>\n  two"


def byte_level() -> Any:
    """As of GPT-2, Qwen and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["what color? two"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
def test_the_bytes_of_a_text_s_tokens(kind: str, tiny: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny) if kind == "sentencepiece" else byte_level()
    found = [spelled(tokenizer, token) for token in tokenizer(TEXT, add_special_tokens=False).input_ids]
    assert bytes(byte for _, raw in found for byte in raw).decode().strip() == TEXT
    assert any(text == "\ufffd" for text, _ in found)  # a part of a character
    assert all(text == bytes(raw).decode(errors="replace") for text, raw in found)
