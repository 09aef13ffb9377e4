"""ANLI: does a sentence follow from another? 3,200 questions of three rounds' test splits.

Data: ``anli_v1.0/R{1,2,3}/test.jsonl`` (uid, context, hypothesis, label e, n or c), or the hub's parquet, a file a
round (premise, hypothesis, label 0 entailment, 1 neutral, 2 contradiction). Several hypotheses stand to one context:
they make one cluster. The total is of all 3,200, the groups are the rounds. That Table 2's figure is accuracy over the
three rounds together is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.labels import EntailmentTask
from llava_teamlora.evaluation.cme.task import Item, Source
from llava_teamlora.evaluation.reading import take

_ORIGIN = "https://dl.fbaipublicfiles.com/anli/anli_v1.0.zip, or facebook/anli on the hub"
_ROUNDS = {"R1": "1,000", "R2": "1,000", "R3": "1,200"}


class Anli(EntailmentTask):
    """See the module's text."""

    name = folder = "anli"
    summary = "ANLI's 3200 test questions of rounds 1 to 3: entailment, neutral or contradiction; text only"
    version = 1
    groups = tuple(_ROUNDS)
    labels = ("entailment", "neutral", "contradiction")
    spellings = {"e": "entailment", "n": "neutral", "c": "contradiction"}
    instruction = "How does sentence 2 relate to sentence 1: entailment, neutral, or contradiction?"
    paraphrases = (
        "Say whether the two sentences below stand in entailment, contradiction, or are neutral.",
        "Take sentence 1 as true. Is sentence 2 then an entailment, a contradiction, or neutral?",
        "Choose the word that describes how these sentences relate: contradiction, neutral, or entailment.",
        "Does the first sentence support the second (entailment), rule it out (contradiction), or neither (neutral)?",
        "Compare both sentences and answer with entailment, neutral, or contradiction.",
        "Which of neutral, entailment, and contradiction fits this pair of sentences?",
        "Judge sentence 2 by what sentence 1 tells: entailment, contradiction, or neutral?",
    )
    tests = tuple(
        Source(
            (
                f"anli_v1.0/{number}/test.jsonl",
                f"{number}/test.jsonl",
                f"plain_text/*test_{number.lower()}*.parquet",
                f"test_{number.lower()}*.parquet",
            ),
            f"the test split of round {number[1]}, {count} questions",
            _ORIGIN,
            number,
            number,
        )
        for number, count in _ROUNDS.items()
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of one round's split."""
        for index, (where, row) in enumerate(rows(path)):
            key = take(row, "uid", str, where) if "uid" in row else str(index)
            fields = ("premise" if "premise" in row else "context", "hypothesis")
            yield self.pair(key, row, fields, where, group)
