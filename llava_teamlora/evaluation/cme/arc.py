"""ARC: science questions of school examinations, with 3 to 5 options; 2,376 easy and 1,172 challenge ones.

Data: ``ARC-Easy-Test.jsonl`` and ``ARC-Challenge-Test.jsonl`` (id, question {stem, choices [{text, label}]},
answerKey), or the hub's parquet (id, question, choices {text, label}, answerKey). Options labelled 1 to 4 are asked as
A to D too. Metric: accuracy of the 3,548 together; the groups are the two sets. That Table 2's one figure is of both
together is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.choosing import LetterTask, letter_at, lettered_question
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.labels import unlabelled
from llava_teamlora.evaluation.cme.task import Item, Source
from llava_teamlora.evaluation.reading import expect_object, take

_SETS = {"easy": ("ARC-Easy", "2,376"), "challenge": ("ARC-Challenge", "1,172")}


class Arc(LetterTask):
    """See the module's text."""

    name = folder = "arc"
    summary = "ARC's 3548 test questions, easy and challenge: science, multiple choice; text only"
    version = 1
    groups = tuple(_SETS)
    instruction = "Which of the choices answers the question? Give its letter."
    paraphrases = (
        "Read the question and write the letter of the right choice.",
        "Answer the following science question with one of the letters.",
        "Pick the choice that is correct.",
        "Only one of the choices below is right. Which one is it?",
        "Find the best answer to this question among the choices.",
        "Select the letter of the choice that fits the question.",
        "Which letter stands before the correct answer?",
    )
    tests = tuple(
        Source(
            (
                f"ARC-V1-Feb2018*/{name}/{name}-Test.jsonl",
                f"{name}/{name}-Test.jsonl",
                f"{name}-Test.jsonl",
                f"{name}/test-*.parquet",
            ),
            f"{name}'s test split, {count} questions",
            "https://ai2-public-datasets.s3.amazonaws.com/arc/ARC-V1-Feb2018.zip, or allenai/ai2_arc on the hub",
            group,
            group,
        )
        for group, (name, count) in _SETS.items()
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of one split of one set."""
        for where, row in rows(path):
            question, options = _question(row, where)
            choices = tuple(text for text, _ in options)
            yield Item(
                key=take(row, "id", str, where),
                input=lettered_question(question, choices),
                answers=(_answer(row, options, where),),
                where=where,
                texts=(question, *choices),
                group=group,
                choices=choices,
            )


def _question(row: Mapping[str, Any], where: str) -> tuple[str, list[tuple[str, str]]]:
    """The question, and text and label of each option."""
    question = take(row, "question", (str, dict), where)
    if isinstance(question, dict):
        listed = take(question, "choices", list, f"{where}, 'question'")
        stem = take(question, "stem", str, f"{where}, 'question'")
    else:
        found = take(row, "choices", (list, dict), where)
        listed = found if isinstance(found, list) else _listed(found, where)
        stem = question
    options = [(expect_object(option, where), f"{where}, choice {number}") for number, option in enumerate(listed)]
    if len(options) < 2:
        raise UserError(f"{where}: has {len(options)} choices, expected several; is the row whole?")
    texts = [(take(option, "text", str, at).strip(), take(option, "label", str, at)) for option, at in options]
    return stem.strip(), texts


def _listed(choices: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Parquet's two lists as one of objects."""
    texts, labels = (take(choices, field, list, f"{where}, 'choices'") for field in ("text", "label"))
    if len(texts) != len(labels):
        raise UserError(f"{where}: 'choices' has {len(texts)} texts and {len(labels)} labels; is the row whole?")
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


def _answer(row: Mapping[str, Any], options: list[tuple[str, str]], where: str) -> str:
    """The letter of the option whose label the answer key is."""
    if not row.get("answerKey"):
        raise UserError(f"{where}: has no 'answerKey' ({unlabelled('arc')})")
    key, labels = take(row, "answerKey", str, where), [label for _, label in options]
    if key not in labels:
        raise UserError(f"{where}: 'answerKey' {key!r:.80} is no choice's label ({', '.join(labels)})")
    return letter_at(labels.index(key), labels, where)
