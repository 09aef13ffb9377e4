"""QQP: do two questions ask the same? 40,430 pairs of GLUE's validation split, the labelled one people report.

Data: GLUE's ``QQP/dev.tsv`` (id, qid1, qid2, question1, question2, is_duplicate; no quoting, a few rows torn in two by
a line feed, which are put together), the hub's parquet (question1, question2, label 0 not_duplicate, 1 duplicate, idx),
or, to train on, ``quora_duplicate_questions.tsv`` of 2017 and Kaggle's ``train.csv``, the same columns quoted and
without splits. Metric: accuracy; ``F1`` of "duplicate" beside it, as GLUE reports both. That Table 2's figure is the
accuracy is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.labels import LabelTask
from llava_teamlora.evaluation.cme.task import Item, Source
from llava_teamlora.evaluation.jackknife import jackknife_stderr
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.reading import take
from llava_teamlora.evaluation.types import Sample, Score, Scores, Verdict

_POSITIVE = "duplicate"
_RELEASE = "quora_duplicate_questions.tsv"


class Qqp(LabelTask):
    """See the module's text."""

    name = folder = "qqp"
    summary = "QQP's 40430 validation pairs of questions: duplicate or not duplicate; text only"
    version = 1
    headline = ("F1", "unparsed")
    labels = ("not duplicate", _POSITIVE)
    spellings = {"not_duplicate": "not duplicate"}
    instruction = "Do these two texts ask the same question? Answer 'duplicate' or 'not duplicate'."
    paraphrases = (
        "Tell whether both questions mean the same: 'duplicate' if they do, 'not duplicate' if they do not.",
        "Would one answer serve both of these questions? Say 'duplicate' or 'not duplicate'.",
        "Compare the meaning of text 1 and text 2; answer 'not duplicate' or 'duplicate'.",
        "Are the following two questions different ways to ask one thing? Choose 'duplicate' or 'not duplicate'.",
        "Label this pair of questions as 'duplicate' or 'not duplicate'.",
        "Say 'duplicate' when text 2 repeats the question of text 1 in other words, else 'not duplicate'.",
        "Is the second question the same as the first in meaning ('duplicate'), or another one ('not duplicate')?",
    )
    tests = (
        Source(
            ("QQP/dev.tsv", "dev.tsv", "qqp/validation-*.parquet", "validation*.parquet"),
            "GLUE's validation split, 40,430 pairs",
            "https://gluebenchmark.com (QQP), or nyu-mll/glue on the hub",
            "validation",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of one split."""
        for index, (where, row) in enumerate(rows(path, quoted=path.suffix == ".csv" or path.name == _RELEASE)):
            first, second = (take(row, field, str, where).strip() for field in ("question1", "question2"))
            yield Item(
                key=str(row.get("id", row.get("idx", index))),
                input=f"Text 1: {first}\nText 2: {second}",
                answers=(self.label(row, "is_duplicate" if "is_duplicate" in row else "label", where),),
                where=where,
                texts=(first, second),
                group=group,
            )

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Accuracy, and F1 where a pair is one or was called one."""
        scores = grouped_mean(samples, verdicts, self.groups)
        f1 = _f1([(s.targets[0] == _POSITIVE, v.parsed == _POSITIVE) for s, v in zip(samples, verdicts, strict=True)])
        return Scores(scores.total, scores.groups, {**({"F1": f1} if f1 else {}), **scores.extra})


def _f1(outcomes: Sequence[tuple[bool, bool]]) -> Score | None:
    """F1 = 2 TP / (2 TP + FP + FN) of (is one, was called one), its standard error a jackknife over pairs."""

    def statistic(sums: Sequence[float]) -> float:
        both, one = sums
        return 2 * both / (2 * both + one)

    counts = [(float(truth and said), float(truth != said)) for truth, said in outcomes]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    if not any(totals):
        return None
    return Score(statistic(totals), jackknife_stderr(counts, statistic), len(outcomes))
