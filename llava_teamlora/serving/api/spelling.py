"""What a single token says, as text and as bytes, for log-probabilities."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from llava_teamlora.generation.spoken import token_text

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def spelled(tokenizer: Any, token: int) -> tuple[str, list[int]]:
    """A token's text, with the space before it, and its bytes; a part of a character has bytes and the text U+FFFD.

    Args:
        tokenizer: a fast one.
        token: its id.
    """
    written = str(tokenizer.convert_ids_to_tokens(token))
    if found := _BYTE.fullmatch(written):
        raw = bytes([int(found[1], 16)])
    elif _byte_level(tokenizer) and all(letter in _letters() for letter in written):
        raw = bytes(_letters()[letter] for letter in written)
    else:
        raw = token_text(tokenizer, token).encode("utf-8")
    return raw.decode("utf-8", errors="replace"), list(raw)


def _byte_level(tokenizer: Any) -> bool:
    return "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
