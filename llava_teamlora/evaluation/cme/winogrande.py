"""WinoGrande: which of two things does a blank stand for? 1,267 sentences of the dev split, the labelled one.

Data: ``dev.jsonl`` of the archive winogrande_1.1 (qID, sentence with ``_``, option1, option2, answer "1" or "2"), or
the hub's parquet, the same without ``qID``. Sentences come as twins that differ in a word or two; a qID is the twins'
name and a number, and twins make one cluster. Metric: accuracy. That the paper reports the dev split is inferred: the
test split's answers are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.choosing import LetterTask
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.labels import unlabelled
from llava_teamlora.evaluation.cme.task import Item, Source
from llava_teamlora.evaluation.reading import take

_LETTERS = {"1": "A", "2": "B"}


class WinoGrande(LetterTask):
    """See the module's text."""

    name = folder = "winogrande"
    summary = "WinoGrande's 1267 dev sentences: which of two options the blank stands for; text only"
    version = 1
    instruction = "Which option belongs in the place of the blank (_) in this sentence, A or B?"
    paraphrases = (
        "The sentence has a blank, written _. Tell which of the two options it stands for.",
        "Choose the option that makes sense where the sentence shows a blank.",
        "Fill the gap in the sentence with option A or option B.",
        "Read the sentence and pick the word that was left out of it.",
        "One of these two options is what the blank refers to. Which one?",
        "Resolve the blank in the following sentence by answering A or B.",
    )
    tests = (
        Source(
            (
                "winogrande_1.1/dev.jsonl",
                "dev.jsonl",
                "winogrande_xl/validation-*.parquet",
                "winogrande_debiased/validation-*.parquet",
                "validation*.parquet",
            ),
            "the dev split, 1,267 sentences",
            "https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip, or allenai/winogrande on "
            "the hub",
            "dev",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of one split."""
        for index, (where, row) in enumerate(rows(path)):
            sentence = take(row, "sentence", str, where).strip()
            choices = tuple(take(row, field, str, where).strip() for field in ("option1", "option2"))
            identity = take(row, "qID", str, where) if "qID" in row else ""
            yield Item(
                key=identity or str(index),
                input=f"Sentence: '{sentence}'\nOption A: '{choices[0]}'\nOption B: '{choices[1]}'",
                answers=(_letter(row.get("answer"), where),),
                where=where,
                texts=(sentence,),
                group=group,
                cluster=identity.rpartition("-")[0],
                choices=choices,
            )


def _letter(answer: object, where: str) -> str:
    if answer in (None, ""):
        raise UserError(f"{where}: has no 'answer' ({unlabelled('winogrande')})")
    if str(answer) not in _LETTERS:
        raise UserError(f"{where}: 'answer' must be '1' or '2', found {answer!r:.80}")
    return _LETTERS[str(answer)]
