"""Tasks whose answer is one of a few words: how files spell their labels, and how an answer is understood.

An answer is stripped of white space, quotes and one trailing period; letters' case is not looked at, and ``_`` and
``-`` count as spaces. It is a label that it equals, or else the one it begins with as whole words, provided that it
names no other: "positive, as the ending shows" is positive; "positive or negative" and "not positive" are nothing.
Where one label ends in another, "not duplicate" is read before "duplicate". An answer without a label is wrong, and
counted as unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.task import Item, TextTask
from llava_teamlora.evaluation.reading import take
from llava_teamlora.evaluation.types import Sample, Verdict


class LabelTask(TextTask):
    """A task of word labels.

    Attributes:
        labels: as training writes them, in the public files' order of numbers.
        spellings: other ways in which files write a label.
    """

    max_new_tokens = 16
    metric = "accuracy"
    groups: tuple[str, ...] = ()
    labels: ClassVar[tuple[str, ...]]
    spellings: ClassVar[Mapping[str, str]] = {}

    def label(self, row: Mapping[str, Any], field: str, where: str) -> str:
        """A row's label, which files give as a word or as a number in the order of ``labels``.

        Raises:
            UserError: none of them; or a test split that keeps its labels to itself.
        """
        if field not in row:
            raise UserError(f"{where}: has no field {field!r}, its label ({unlabelled(self.name)})")
        value = row[field]
        if value in (None, -1, "-1", ""):
            raise UserError(f"{where}: has no label ({field!r} is {value!r}; {unlabelled(self.name)})")
        numbered = dict(enumerate(self.labels)) | {str(n): label for n, label in enumerate(self.labels)}
        known = numbered | {label: label for label in self.labels} | dict(self.spellings)
        if isinstance(value, bool) or value not in known:
            raise UserError(f"{where}: {field!r} must be one of {', '.join(map(repr, known))}; found {value!r:.80}")
        return known[value]

    def candidates(self, item: Item) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for the right label; see the module's text."""
        parsed = parse_label(text, self.labels)
        return Verdict(parsed, float(parsed in sample.targets), {"unparsed": float(not parsed)})


class EntailmentTask(LabelTask):
    """Whether a sentence follows from another. Sentences on one premise make one cluster."""

    def pair(self, key: str, row: Mapping[str, Any], fields: tuple[str, str], where: str, group: str) -> Item:
        """A row's item.

        Args:
            key: the item's.
            row: with a ``label``.
            fields: of the premise and of the hypothesis.
            where: ``file, line n``.
            group: the item's.

        Raises:
            UserError: a field is missing, or no label.
        """
        premise, hypothesis = (take(row, field, str, where).strip() for field in fields)
        return Item(
            key=key,
            input=f"Sentence 1: {premise}\nSentence 2: {hypothesis}",
            answers=(self.label(row, "label", where),),
            where=where,
            texts=(premise, hypothesis),
            group=group,
            cluster=premise,
        )


def unlabelled(name: str) -> str:
    """What to say of rows that keep their answers to themselves."""
    return f"a split without answers can be neither scored nor trained on; evaluate check {name} names those that can"


def parse_label(text: str, labels: Sequence[str]) -> str:
    """The label that an answer gives, or ``""``; see the module's text."""
    said = _plain(text)
    plain = {_plain(label): label for label in labels}
    if said in plain:
        return plain[said]
    named = _names(tuple(plain))
    first = named.match(said)
    return plain[first[0]] if first and set(named.findall(said)) == {first[0]} else ""


def _plain(text: str) -> str:
    words = " ".join(re.sub(r"[_-]", " ", text.lower()).split())
    return words.removesuffix(".").strip("\"'“”‘’*` ").removesuffix(".")


@lru_cache
def _names(labels: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first: "not duplicate" ends in "duplicate".
    longest = sorted(labels, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b")
