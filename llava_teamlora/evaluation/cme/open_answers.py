"""Answers in free words: the normal forms of four official tools, and how much of an accepted answer was said.

* :func:`squad_form`: SQuAD 1.1's ``evaluate-v1.1.py``: lower case, ASCII punctuation dropped, the articles a, an and
  the dropped, white space made single.
* :func:`nq_form`: NQ-Open's (google-research/language, ``orqa/utils/eval_utils.py``): the same after Unicode's NFD.
* :func:`trivia_form`: TriviaQA's ``triviaqa_evaluation.py``: punctuation, with four quotes more, becomes a space.
* :func:`chinese_form`: after CMRC 2018's ``cmrc2018_evaluate.py``, which drops marks and spaces; see the function.

Kept on purpose, since published numbers have them: in NFD an accent is no letter, so that the ``a`` of "niña" counts
as an article; "U.S." is "us" for SQuAD's form and "u s" for TriviaQA's; "e-mail" and "email" are one for SQuAD's
only.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from llava_teamlora.evaluation.cme.task import TextTask
from llava_teamlora.evaluation.types import Sample, Verdict

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROPPED = dict.fromkeys(map(ord, string.punctuation))
_SPACED = dict.fromkeys(map(ord, string.punctuation + "‘’´`"), " ")
_WRITING = re.compile(r"(?<=\d)\.(?=\d)|[^\W_]|[%‰°]")


def squad_form(text: str) -> str:
    """``"The U.S.'s  cat!"`` -> ``"uss cat"``."""
    return _without_articles(text.lower().translate(_DROPPED))


def nq_form(text: str) -> str:
    """As :func:`squad_form`, of the decomposed text."""
    return squad_form(unicodedata.normalize("NFD", text))


@lru_cache(maxsize=1 << 17)
def trivia_form(text: str) -> str:
    """``"The U.S.'s_cat!"`` -> ``"u s s cat"``."""
    return _without_articles(text.lower().translate(_SPACED))


def chinese_form(text: str) -> str:
    """NFKC, lower case; only letters, digits, decimal points and % ‰ ° stay: ``"《Ａ 计划》"`` -> ``"a计划"``.

    # Differs from CMRC 2018's: that drops 30 marks by name; "." and spaces inside an answer stay there, and so does the
    # width of full-width letters. An answer that is nothing but marks stays as it is.
    """
    return "".join(_WRITING.findall(unicodedata.normalize("NFKC", text).lower())) or text.strip()


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split())


def token_f1(said: str, accepted: str) -> float:
    """Harmonic mean of the shares of words in common, of two texts in normal form: SQuAD's and TriviaQA's F1.

    With 2 words in common of 3 said and 4 accepted: 2 * 2 / (3 + 4).
    """
    ours, theirs = said.split(), accepted.split()
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def run_f1(said: str, accepted: str) -> float:
    """As :func:`token_f1`, of the longest run of characters in common, as CMRC 2018's F1.

    # Differs from CMRC 2018's: a word of Latin letters or a number is one unit there, and here its characters are: of
    ``1998年`` and ``1999年`` three characters are in common, there the last unit alone.
    """
    run = SequenceMatcher(None, said, accepted, autojunk=False).find_longest_match().size
    return 2 * run / (len(said) + len(accepted)) if run else 0.0


class OpenQuestion(TextTask):
    """A task whose question is its own instruction, answered in a few free words.

    Attributes:
        form: an answer's normal form; two answers are one if theirs are.
    """

    metric = "exact match"
    max_new_tokens = 32
    groups: tuple[str, ...] = ()
    form: Callable[[str], str]

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for an accepted answer; ``f1`` beside it, by the accepted answer nearest to what was said."""
        form = type(self).form
        said, accepted = form(text), [form(target) for target in sample.targets]
        return Verdict(said, float(said in accepted), {"f1": best_f1(token_f1, said, accepted)})


def best_f1(measure: Callable[[str, str], float], said: str, accepted: Sequence[str]) -> float:
    """The highest over the accepted answers."""
    return max((measure(said, one) for one in accepted), default=0.0)
