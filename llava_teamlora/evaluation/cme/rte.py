"""RTE: does a sentence follow from a passage? 277 questions of the validation split, the labelled one people report.

Data: GLUE's ``RTE/dev.tsv`` (index, sentence1, sentence2, label), SuperGLUE's ``RTE/val.jsonl`` (premise, hypothesis,
label, idx), or either's parquet on the hub (label 0 entailment, 1 not_entailment). The same rows in all. Sentences on
one passage make one cluster. Metric: accuracy. That the paper reports the validation split is inferred: the test
split's labels are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.labels import EntailmentTask
from llava_teamlora.evaluation.cme.task import Item, Source


class Rte(EntailmentTask):
    """See the module's text."""

    name = folder = "rte"
    summary = "RTE's 277 validation questions: entailment or not_entailment; text only"
    version = 1
    labels = ("entailment", "not_entailment")
    spellings = {"not entailment": "not_entailment"}
    instruction = "Does sentence 2 follow from sentence 1? Answer entailment or not_entailment."
    paraphrases = (
        "Decide whether the second sentence is implied by the first: entailment or not_entailment.",
        "If sentence 1 is true, must sentence 2 be true? Answer entailment if so, else not_entailment.",
        "Label the pair of sentences as entailment or not_entailment.",
        "Can sentence 2 be concluded from sentence 1? Choose between not_entailment and entailment.",
        "Read both sentences; is what the second says contained in the first (entailment) or not (not_entailment)?",
        "Choose entailment when the first sentence supports the second, and not_entailment when it does not.",
    )
    tests = (
        Source(
            ("RTE/dev.tsv", "dev.tsv", "RTE/val.jsonl", "val.jsonl", "rte/validation-*.parquet", "validation*.parquet"),
            "the validation split, 277 questions",
            "https://gluebenchmark.com (RTE), https://super.gluebenchmark.com, or nyu-mll/glue on the hub",
            "validation",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of one split."""
        for index, (where, row) in enumerate(rows(path, quoted=False)):
            key = str(row.get("index", row.get("idx", index)))
            fields = ("premise", "hypothesis") if "premise" in row else ("sentence1", "sentence2")
            yield self.pair(key, row, fields, where, group)
