"""ROUGE by Google's ``rouge-score``, an extra. Chinese references are compared character by character.

rouge-score's own tokenizer keeps a-z and 0-9 only, so that every Chinese summary would score 0.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_CHINESE = re.compile(f"[{_HAN}]")
_TOKENS = re.compile(f"[{_HAN}]|[a-z0-9]+")


class CharacterTokenizer:
    """Each Chinese character by itself, and words of a-z and 0-9 as rouge-score's own has them."""

    def tokenize(self, text: str) -> list[str]:
        """``"用GPT-4写"`` -> ``["用", "gpt", "4", "写"]``."""
        return _TOKENS.findall(text.lower())


def is_chinese(text: str) -> bool:
    """Whether it holds a Chinese character."""
    return _CHINESE.search(text) is not None


def rouge(reference: str, text: str) -> dict[str, float]:
    """F1 of ``rouge1``, ``rouge2``, ``rougeL``, and ``rougeL_stem``, where English words are cut to their stems.

    Raises:
        UserError: rouge-score is not installed.
    """
    chinese = is_chinese(reference)
    found = {name: score.fmeasure for name, score in _scorer(chinese, False).score(reference, text).items()}
    stemmed = found if chinese else {"rougeL": _scorer(False, True).score(reference, text)["rougeL"].fmeasure}
    return {**found, "rougeL_stem": stemmed["rougeL"]}


@cache
def _scorer(chinese: bool, stem: bool) -> RougeScorer:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError("ROUGE is computed by rouge-score; pip install 'llava-teamlora[cme]'") from error
    kinds = ["rougeL"] if stem else ["rouge1", "rouge2", "rougeL"]
    tokenizer: Any = CharacterTokenizer() if chinese else None
    return RougeScorer(kinds, use_stemmer=stem, tokenizer=tokenizer)
