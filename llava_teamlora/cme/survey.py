"""First pass over a set: two numbers a row, and the rows that make no example.

Of 4 million rows that is 64 MB: what is chosen is then decided without any text at hand.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llava_teamlora.cme.forms import BadRow, Example, Form
from llava_teamlora.cme.texts import digest, digest_bytes, normal
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import not_empty
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import write_atomically

_HOPELESS = 1000
"""Bad rows at the beginning after which no good one is awaited: they are held, and a set may have millions."""
Dedup = Literal["record", "question", "off"]


@dataclass(frozen=True)
class Survey:
    """A set's rows in the order of its files, those without bad ones.

    Attributes:
        contents: digest of what a duplicate is found by, uint64 [rows].
        priorities: a seeded digest of everything, uint64 [rows]: the lowest are chosen first.
        bad_rows: place and problem of those that make no example.
    """

    contents: np.ndarray
    priorities: np.ndarray
    bad_rows: list[tuple[str, str]]


def examples(form: Form, files: Sequence[tuple[Path, str]]) -> Iterator[Example | BadRow]:
    """The rows of all files of a set, each file with its group."""
    for path, group in files:
        yield from not_empty(form.examples(path, group), path)


def survey(
    rows: Iterator[Example | BadRow], *, name: str, seed: int, dedup: Dedup, refuse: bool, told: Callable[[int], None]
) -> Survey:
    """Read a set to its end.

    Args:
        rows: of the set.
        name: of the set; the same row of two sets has two priorities.
        seed: of the priorities.
        dedup: whether contents are of question and answer, or of the question alone.
        refuse: raise on a bad row instead of listing it, unless sound files have such rows.
        told: called with 1 for every row.

    Raises:
        UserError: a bad row, if they are refused; or there are none but bad ones.
    """
    contents, priorities = array("Q"), array("Q")
    bad_rows: list[tuple[str, str]] = []
    key = f"{seed} {name}".encode()[:64]
    for row in rows:
        told(1)
        if isinstance(row, BadRow):
            if refuse and not row.usual:
                raise UserError(
                    f"{row.where}: {row.problem}; mend it, or --on_bad_row skip leaves such rows out and lists them"
                )
            bad_rows.append((row.where, row.problem))
            if len(bad_rows) == _HOPELESS and not contents:
                raise _no_example(bad_rows)
            continue
        own = [normal(text) for text in row.texts]
        contents.append(digest(own if dedup == "question" else [*own, "\x1e", normal(row.output)]))
        whole = "\x1f".join((row.instruction, row.input, row.output))
        priorities.append(digest_bytes(whole.encode("utf-8", "surrogatepass"), key))
    if bad_rows and not contents:
        raise _no_example(bad_rows)
    return Survey(np.frombuffer(contents, np.uint64), np.frombuffer(priorities, np.uint64), bad_rows)


def _no_example(bad_rows: Sequence[tuple[str, str]]) -> UserError:
    (where, problem), count = bad_rows[0], len(bad_rows)
    return UserError(f"{where}: {problem}; nor is any of its first {count} rows a record: is it of another edition?")


def save(found: Survey, path: Path, facts: dict[str, Any]) -> None:
    """Keep a survey: ``path`` with the numbers, and beside it ``.json`` with bad rows and further facts, the last."""
    write_atomically(path, (numbers.tobytes() for numbers in (found.contents, found.priorities)))
    write_atomically(path.with_suffix(".json"), json.dumps({**facts, "bad_rows": found.bad_rows}))


def load(path: Path) -> tuple[Survey, dict[str, Any]] | None:
    """What :func:`save` kept; None if there is nothing whole."""
    if not path.with_suffix(".json").exists():
        return None
    facts = read_json_object(path.with_suffix(".json"))
    contents, priorities = np.fromfile(path, np.uint64).reshape(2, -1)
    return Survey(contents, priorities, [(where, problem) for where, problem in facts.pop("bad_rows")]), facts
