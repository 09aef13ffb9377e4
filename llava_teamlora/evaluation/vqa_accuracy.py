"""Accuracy of open answers against ten people's: what TextVQA, VQAv2 and VizWiz score by.

In: a model's answer and the people's. Out: the answer as it was understood, and its share of a full point.

Three official tools, alike and yet different:

* EvalAI's answer processor as LLaVA has it (``llava/eval/m4c_evaluator.py``, first of Pythia): :func:`evalai_answer`.
  TextVQA runs it over both sides; LLaVA runs it over every answer that it sends to VQAv2's and VizWiz's servers.
* VQA's (``GT-Vision-Lab/VQA``, ``vqaEval.py``): :func:`vqa_accuracy`. Both sides are processed only where the people
  differ; where all said the same, the answer must be that to the letter.
* VizWiz's (its Python API's ``vqaEval.py``): :func:`vizwiz_accuracy`. The answer is processed, the people's never.

Kept on purpose, since every published number has them: a period goes although a digit precedes it (the lookbehind in
``(?!<=\\d)(\\.)(?!\\d)`` is mistyped), and only the first 32 go (``re.UNICODE``, which is 32, is passed as the count).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import take

PEOPLE = 10

_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))

# Every spelling that lacks one apostrophe is mended. Words that would be others without it (we'll, I'd, it's) are not
# in the official list, and its keys with capitals are left out: they never match, the words are lower-case by then.
_SPELLINGS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in _SPELLINGS for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}  # the official list has this one the wrong way round

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_PERIODS_DROPPED = int(re.UNICODE)
_THOUSANDS = re.compile(r"\d,\d")


@lru_cache(maxsize=1 << 17)
def evalai_answer(text: str) -> str:
    """An answer as LLaVA's copy of EvalAI's processor leaves it: ``"The Denny's."`` -> ``"denny 's"``."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return vqa_answer(_one_line(text))


@lru_cache(maxsize=1 << 17)
def vqa_answer(text: str) -> str:
    """An answer as VQA's official tool leaves it: punctuation, case, number words, articles and contractions mended."""
    glued = _THOUSANDS.search(text) is not None
    bare = text
    for mark in _PUNCTUATION:
        if mark in bare:
            apart = not glued and f"{mark} " not in text and f" {mark}" not in text
            bare = bare.replace(mark, " " if apart else "")
    bare = _PERIOD.sub("", bare, count=_PERIODS_DROPPED)
    words = [_NUMBERS.get(word, word) for word in bare.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """min(others who said so / 3, 1), averaged over leaving out each of the people once.

    With ten people: 0, .3, .6, .9 and 1 for 0, 1, 2, 3 and more equal answers.
    """
    same = sum(one == answer for one in people)
    if not same:
        return 0.0
    left_in, left_out = min(same / 3, 1.0), min((same - 1) / 3, 1.0)
    return ((len(people) - same) * left_in + same * left_out) / len(people)


def vqa_accuracy(text: str, people: Sequence[str]) -> tuple[str, float]:
    """By VQA's official tool: the answer as understood, and its accuracy.

    Args:
        text: the answer as it would be submitted.
        people: theirs, as in the annotations.
    """
    answer, plain = _one_line(text), [_one_line(one) for one in people]
    if len(set(plain)) > 1:
        answer, plain = vqa_answer(answer), [vqa_answer(one) for one in plain]
    return answer, soft_accuracy(answer, plain)


def vizwiz_accuracy(text: str, people: Sequence[str]) -> tuple[str, float]:
    """By VizWiz's official tool: the answer as understood, and its accuracy.

    # Differs from VizWiz's vqaEval.py: its contractions carry typographic apostrophes, which no annotation does, so
    # that "dont" never matches there; an answer that EvalAI's processor has been over, as LLaVA submits, holds none.

    Args:
        text: the answer as it would be submitted.
        people: theirs, as in the annotations.
    """
    answer = vqa_answer(_one_line(text))
    return answer, soft_accuracy(answer, people)


def take_answers(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The ten answers of a row of annotations: strings, or objects with the field ``answer``.

    Raises:
        UserError: absent, of another form, or not ten.
    """
    found = take(row, "answers", list, where)
    if len(found) != PEOPLE:
        raise UserError(f"{where}: 'answers' must hold {PEOPLE} answers, found {len(found)}")
    texts: tuple[Any, ...] = tuple(one.get("answer") if isinstance(one, dict) else one for one in found)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"{where}, answer {number}: must be text or have the text as 'answer', found {found[number]!r:.80}"
            )
    return texts


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
