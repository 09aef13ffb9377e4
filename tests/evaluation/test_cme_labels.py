"""How answers become labels and letters."""

from __future__ import annotations

import pytest

from llava_teamlora.evaluation.cme.anli import Anli
from llava_teamlora.evaluation.cme.choosing import parse_letter
from llava_teamlora.evaluation.cme.imdb import Imdb
from llava_teamlora.evaluation.cme.labels import LabelTask, parse_label
from llava_teamlora.evaluation.cme.qqp import Qqp
from llava_teamlora.evaluation.cme.rte import Rte
from llava_teamlora.evaluation.types import Sample

SENTIMENT, NLI, PAIR, FOLLOWS = Imdb.labels, Anli.labels, Qqp.labels, Rte.labels


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (SENTIMENT, "positive", "positive"),
        (SENTIMENT, " Negative.\n", "negative"),
        (SENTIMENT, "**Positive**", "positive"),
        (SENTIMENT, "'negative'.", "negative"),
        (SENTIMENT, "positive, as its end shows", "positive"),
        (SENTIMENT, "positive or negative", ""),
        (SENTIMENT, "not positive", ""),
        (SENTIMENT, "It is positive", ""),
        (SENTIMENT, "positively dull", ""),
        (SENTIMENT, "A", ""),
        (SENTIMENT, "", ""),
        (NLI, "Neutral", "neutral"),
        (NLI, "contradiction: the mill is older", "contradiction"),
        (NLI, "contradictions", ""),
        (NLI, "not entailment", ""),
        (NLI, "entailment/neutral", ""),
        # The shorter label stands in the longer one, which must never be read as it.
        (PAIR, "duplicate", "duplicate"),
        (PAIR, "Not duplicate", "not duplicate"),
        (PAIR, "not_duplicate.", "not duplicate"),
        (PAIR, "NOT  DUPLICATE because", "not duplicate"),
        (PAIR, "duplicate, not not duplicate", ""),
        (PAIR, "nonduplicate", ""),
        (PAIR, "not a duplicate", ""),
        (FOLLOWS, "entailment", "entailment"),
        (FOLLOWS, "not_entailment", "not_entailment"),
        (FOLLOWS, "not entailment, since", "not_entailment"),
        (FOLLOWS, "not-entailment", "not_entailment"),
        (FOLLOWS, "no entailment", ""),
        (FOLLOWS, "not", ""),
    ],
)
def test_labels(labels: tuple[str, ...], text: str, label: str) -> None:
    assert parse_label(text, labels) == label


@pytest.mark.parametrize("task", [Imdb(), Anli(), Qqp(), Rte()], ids=lambda task: task.name)
def test_every_label_is_read_as_itself(task: LabelTask) -> None:
    for label in task.labels:
        for text in (label, label.upper(), f" {label}.", f"'{label}'", f"{label}\n\nbecause"):
            assert parse_label(text, task.labels) == label
        verdict = task.judge(Sample("k", "k", "p", (label,)), label)
        assert (verdict.score, verdict.parsed, dict(verdict.extra)) == (1.0, label, {"unparsed": 0.0})
        other = next(name for name in task.labels if name != label)
        assert task.judge(Sample("k", "k", "p", (label,)), other).score == 0.0
    assert dict(task.judge(Sample("k", "k", "p", (task.labels[0],)), "perhaps").extra) == {"unparsed": 1.0}


CHOICES = ("a cork", "a coin", "the brick")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(c)", "C"),
        ("A.", "A"),
        (" B:\n", "B"),
        ("D", ""),  # there are three options
        ("B.a coin", "B"),
        ("Option C", "C"),
        ("The answer is B because it is round and heavy", "B"),
        ("A or B", ""),
        ("the brick", "C"),
        ("a cork, not a coin", ""),
        ("", ""),
    ],
)
def test_letters(text: str, letter: str) -> None:
    assert parse_letter(text, CHOICES) == letter
