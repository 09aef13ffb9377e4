"""An answer's text as its tokens come: what of it may be shown already.

In: tokens, one at a time. Out: pieces of text; joined, they are the whole answer's text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte-fallback token
_STOP_WITHIN = 8  # newest tokens, beside as many as a text has bytes, in which it is looked for
_UNFINISHED = "\ufffd"  # what a tokenizer shows for a character whose bytes are not all there yet


class Spoken:
    """One answer in the making.

    Args:
        tokenizer: decodes the tokens.
        stops: texts that end the answer and are no part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.ids: list[int] = []
        self.shown = ""

    def push(self, token: int) -> str:
        """Take in a token; returns what may be shown beyond what was, often nothing.

        What may still turn out otherwise waits: a character's first bytes, the beginning of a text that ends the
        answer, and trailing space, which is stripped if nothing follows.
        """
        self.ids.append(token)
        if _is_byte(self.tokenizer, token) or not _decoded(self.tokenizer, [token]):
            return ""  # a run of bytes is decoded as a whole, and one that says nothing (a special one) parts no run
        text = spoken_text(self.tokenizer, self.ids, self.stops).rstrip(_UNFINISHED)
        return self._show(_without_begun(text, self.stops).strip())

    def rest(self) -> str:
        """What was still waiting, now that the answer is complete."""
        return self._show(spoken_text(self.tokenizer, self.ids, self.stops).strip())

    def _show(self, text: str) -> str:
        if not text.startswith(self.shown) or len(text) == len(self.shown):
            return ""
        piece = text[len(self.shown) :]
        self.shown = text
        return piece


def spoken_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Sequence[str]) -> str:
    """What the ids say, special tokens dropped, up to the first of the texts that end it."""
    text = _decoded(tokenizer, ids)
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]


def stands(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether one of the texts that end an answer stands in its newest tokens."""
    if not stops:
        return False
    first = max(0, len(ids) - _STOP_WITHIN - max(len(stop.encode(errors="replace")) for stop in stops))
    while first and _is_byte(tokenizer, ids[first]):
        first -= 1  # a run of bytes that is cut within a character says nothing at all
    text = _decoded(tokenizer, ids[first:])
    return any(stop in text for stop in stops)


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What one token says inside a text, with the space before it; U+FFFD where it is but a part of a character."""

    def said(*ids: int) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # Behind another one, for a tokenizer may drop the space that a text begins with.
    return said(token, token)[len(said(token)) :]


def _is_byte(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Whether a token is one byte of a character that is in no word."""
    return _BYTE.fullmatch(str(tokenizer.convert_ids_to_tokens(token))) is not None


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _without_begun(text: str, stops: Sequence[str]) -> str:
    """The text without a last part that may be the beginning of one of ``stops``."""
    longest = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - longest]
