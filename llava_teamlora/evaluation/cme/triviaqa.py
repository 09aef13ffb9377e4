"""TriviaQA: 11,313 quiz questions -> short answers, without documents.

Data: ``triviaqa-unfiltered/unfiltered-web-dev.json`` (training ``unfiltered-web-train.json``): ``{"Data": [{Question,
QuestionId, Answer: {Value, Aliases, NormalizedAliases}}]}``, streamed, for search results make such a file hundreds of
megabytes; or the hub's parquet mandarjoshi/trivia_qa, ``unfiltered.nocontext`` (question, question_id, answer: {value,
normalized_aliases}). ``items`` reads the reading-comprehension release (``qa/web-…``, ``qa/wikipedia-…``, ``rc…``) too,
which has the same form; its dev splits are other questions, and are not looked for.

The authors' records give answers in normal form ("indian ocean").
# Differs from these: training writes Answer.Value as the file has it; the score is the same, and the model's writing
stays readable.

Metric: exact match after ``trivia_form``, TriviaQA's own scorer, by any of NormalizedAliases and HumanAnswers;
``f1`` beside it. That Table 2 shows exact match is inferred from the size of its numbers. Quirks kept: the form is
taken again of aliases that are normalized already; "_" and four kinds of quotes are spaces; F1 is 0 where a form has
no words, though it may match.
# Differs from triviaqa_evaluation.py: Answer.Value counts too, should no alias equal it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.open_answers import OpenQuestion, trivia_form
from llava_teamlora.evaluation.cme.streaming import Row, stream_rows
from llava_teamlora.evaluation.cme.task import Item, Source, take_words
from llava_teamlora.evaluation.reading import take

_ORIGINAL = ("Question", "QuestionId", "Answer", "Value", "NormalizedAliases", "HumanAnswers")
_HUB = ("question", "question_id", "answer", "value", "normalized_aliases", "human_answers")


class TriviaQa(OpenQuestion):
    """See the module's text."""

    name = folder = "triviaqa"
    summary = "TriviaQA's 11,313 quiz questions, answered without documents; text only"
    version = 1
    form = staticmethod(trivia_form)
    tests = (
        Source(
            ("triviaqa-unfiltered/unfiltered-web-dev.json", "unfiltered-web-dev.json")
            + ("unfiltered.nocontext/validation-*.parquet", "validation*.parquet"),
            "the unfiltered dev split, 11,313 questions",
            "nlp.cs.washington.edu/triviaqa (triviaqa-unfiltered.tar.gz), or mandarjoshi/trivia_qa on the hub",
            "dev",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of the original JSON or of parquet. An id that comes again, as in ``rc``, counts its rows: ``tc_33#2``."""
        original = path.suffix == ".json"
        names = _ORIGINAL if original else _HUB
        seen: dict[str, int] = {}
        for where, row in quiz_rows(path):
            question, key = take_words(row, names[0], where), take_words(row, names[1], where)
            seen[key] = seen.get(key, 0) + 1
            key = key if seen[key] == 1 else f"{key}#{seen[key]}"
            yield Item(key, question, _answers(row, names, where), where, (question,))


def quiz_rows(path: Path) -> Iterator[Row]:
    """The questions of the original JSON, or of parquet, as they are.

    Raises:
        UserError: missing or broken.
    """
    return stream_rows(path, "Data") if path.suffix == ".json" else rows(path)


def _answers(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The value, then the aliases and what people answered, each once."""
    _, _, field, value, *lists = names
    answer, place = row.get(field), f"{where}, {field!r}"
    # The hub writes <unk> where the original keeps an answer to itself.
    if not answer or (isinstance(answer, dict) and answer.get(value) == "<unk>"):
        raise UserError(
            f"{where}: has no {field!r}; a split without answers can be neither scored nor trained on; evaluate check "
            "triviaqa names one that can"
        )
    answer = take(row, field, dict, where)
    aliases = [*take(answer, lists[0], list, place), *(answer.get(lists[1]) or [])]
    if not all(isinstance(alias, str) for alias in aliases):
        raise UserError(f"{place}: {' and '.join(map(repr, lists))} must be lists of texts, found {aliases!r:.80}")
    return tuple(dict.fromkeys([take_words(answer, value, place), *aliases]))
