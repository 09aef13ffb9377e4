"""Texts as numbers: what duplicates and leaks are looked for by.

A digest is 8 bytes of BLAKE2b. Among n different texts two share a digest with odds of about n * n / 2^65: one in six
million for the 2.5 million records of a whole mix, one in forty thousand for thirty million.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

NGRAM = 13
"""Words in a row that make a leak, as in GPT-3 (Brown et al. 2020, appendix C)."""

_EDGE = " .,;:!?…'\"`´‘’“”()[]。，、；：！？（）《》「」『』"
_END, _WORD, _ALONE, _DROPPED, _GAP = 4, 1, 2, 3, 0
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)


def normal(text: str) -> str:
    """A text without what editions of a data set differ in: case, width, white space, marks at its ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).strip(_EDGE)


def digest(texts: Sequence[str]) -> int:
    """64 bits of several texts in their order."""
    return digest_bytes("\x1f".join(texts).encode("utf-8", "surrogatepass"))


def digest_bytes(content: bytes, key: bytes = b"") -> int:
    """64 bits of bytes; other ones for each key."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "little")


def ngrams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every 13 words in a row, and which of the texts each stands in; none reaches over a text's end.

    A word is a run of letters, digits and marks, in small letters and without apostrophes; a Chinese character or a
    Japanese syllable is a word of its own, since nothing divides them. Everything else only divides words. All is
    arithmetic modulo 2^64 on whole arrays: a window's hash is the difference of two sums of powers, shifted back.

    Returns:
        Hashes [N] uint64 and indices of texts [N] int64.
    """
    tokens, owners = words(texts)
    if len(tokens) < NGRAM:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes = _windows(tokens, np.arange(len(tokens) - NGRAM + 1), np.arange(NGRAM, len(tokens) + 1))
    inside = owners[: len(hashes)] == owners[NGRAM - 1 :]
    return _mixed(hashes[inside]), owners[: len(hashes)][inside]


def words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all words in their order, and which of the texts each stands in."""
    # U+0000 ends a text here: one inside it divides words, as every character that is neither letter nor mark does.
    joined = "".join(f"{unicodedata.normalize('NFKC', text).lower().replace(chr(0), ' ')}\0" for text in texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[codes]
    kept = kinds != _DROPPED
    codes, kinds = codes[kept], kinds[kept]
    word, alone = kinds == _WORD, kinds == _ALONE
    before = np.concatenate(([False], word[:-1]))
    after = np.concatenate((word[1:], [False]))
    starts = np.flatnonzero(alone | (word & ~before))
    ends = np.flatnonzero(alone | (word & ~after)) + 1
    owners = np.cumsum(kinds == _END)[starts]
    return _mixed(_windows(_values()[codes], starts, ends)), owners


def _windows(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Of each window the sum of its values times powers of the base that count from the window's start."""
    powers, inverses = _powers(1 << max(len(values).bit_length(), 16))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values * powers[: len(values)], dtype=np.uint64)))
    return (sums[ends] - sums[starts]) * inverses[starts]


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread 64 bits over 64 bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    def powers(base: int) -> np.ndarray:
        factors = np.full(count, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)

    return powers(_BASE), powers(_INVERSE)


@cache
def _values() -> np.ndarray:
    """64 bits for each character."""
    return _mixed(np.arange(1, 0x110001, dtype=np.uint64) * np.uint64(_BASE))


@cache
def _kinds() -> np.ndarray:
    """What each character is: part of a word, a word of its own, nothing, or a gap."""
    kinds = np.zeros(0x110000, np.uint8)
    for code in range(0x110000):
        character = chr(code)
        if character.isalnum() or unicodedata.category(character).startswith("M"):
            kinds[code] = _WORD
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)):
        block = kinds[first : last + 1]
        block[block == _WORD] = _ALONE
    for character in "'’\u00ad\u200b\u200c\u200d":
        kinds[ord(character)] = _DROPPED
    kinds[0] = _END
    return kinds
