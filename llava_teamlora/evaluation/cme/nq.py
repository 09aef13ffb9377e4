"""NQ-Open: 3610 questions that people asked Google -> short answers.

Data: ``NQ-open.dev.jsonl`` of google-research-datasets/natural-questions (training ``NQ-open.train.jsonl``), rows of
question and answer, a list; the hub's parquet nq_open, the same; or DPR's ``nq-test.qa.csv``, a question, a tab and
a Python list, without a header. The question stands as it is: lower case, no question mark.

Metric: exact match after ``nq_form``, NQ-Open's own scorer, by any of the answers; ``f1``, SQuAD's, beside it. That
Table 2 shows exact match is inferred from the size of its numbers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.open_answers import OpenQuestion, nq_form
from llava_teamlora.evaluation.cme.task import Item, Source, take_words
from llava_teamlora.evaluation.reading import take


class Nq(OpenQuestion):
    """See the module's text."""

    name = folder = "nq"
    summary = "NQ-Open's 3610 questions, answered without documents; text only"
    version = 1
    form = staticmethod(nq_form)
    tests = (
        Source(
            ("NQ-open.dev.jsonl", "nq_open/NQ-open.dev.jsonl", "nq_open/validation-*.parquet", "validation*.parquet")
            + ("nq-test.qa.csv",),
            "the dev split, 3610 questions (DPR's test)",
            "google-research-datasets/natural-questions, nq_open/; nq_open on the hub; facebookresearch/DPR",
            "dev",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of JSON lines or parquet, or of DPR's table. A row's key is its number, for it has no id."""
        found = _dpr(path) if path.suffix == ".csv" else rows(path)
        for index, (where, row) in enumerate(found):
            question = take_words(row, "question", where)
            yield Item(str(index), question, _answers(row, where), where, (question,))


def _answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    answers = take(row, "answer", list, where)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"{where}: 'answer' must be a list of texts, at least one, found {answers!r:.80}")
    return tuple(answers)


def _dpr(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its fields stand between tabs; the answers are a Python list, or JSON's, which reads the same."""
    for where, row in rows(path, columns=("question", "answer"), separator="\t"):
        try:
            answers = ast.literal_eval(row["answer"])
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise UserError(f"{where}: its answers are no list ({error}); found {row['answer']!r:.80}") from error
        yield where, {"question": row["question"], "answer": answers}
