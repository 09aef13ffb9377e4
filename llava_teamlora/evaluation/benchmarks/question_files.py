"""LLaVA's question files: JSON lines ``{question_id, image, text, category}``, as its ``eval.zip`` holds them.

``text`` is the whole human turn. Benchmarks read them, and make them from the official files where they are missing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import stream_json_lines, take

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
EVAL_ZIP = "LLaVA's eval.zip (docs/Evaluation.md of haotian-liu/LLaVA)"


@dataclass(frozen=True)
class Question:
    """One row, with its place (``file, line n``) for messages."""

    where: str
    question_id: int | str
    image: str
    text: str


def read_question_file(path: Path, benchmark: str) -> list[Question]:
    """All rows, in the file's order.

    Raises:
        UserError: the file is missing or broken.
    """
    remedy = f"take it from {EVAL_ZIP} or make it: llava-teamlora evaluate build {benchmark}"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    found = [_question(row, where) for where, row in stream_json_lines(path)]
    if not found:
        raise UserError(f"{path}: holds no questions; {remedy}")
    return found


def _question(row: dict[str, Any], where: str) -> Question:
    return Question(
        where,
        take(row, "question_id", (int, str), where),
        take(row, "image", str, where),
        take(row, "text", str, where),
    )


def question_row(question_id: int | str, image: str, text: str) -> dict[str, Any]:
    """A row as LLaVA writes it."""
    return {"question_id": question_id, "image": image, "text": text, "category": "default"}


def refuse_repeats(name: str, found: Iterable[tuple[str, Hashable]]) -> None:
    """Raise UserError if two places hold the same value of what must tell rows apart.

    Args:
        name: the field, for the message.
        found: place and value of each row.
    """
    first: dict[Hashable, str] = {}
    for where, value in found:
        if first.setdefault(value, where) is not where:
            raise UserError(f"{where}: {name} {value!r} stands already at {first[value]}; remove one of the two")
