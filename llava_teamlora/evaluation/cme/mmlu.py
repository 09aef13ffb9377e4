"""MMLU: 14,042 questions of 57 subjects, four options each.

Data: ``data/test/<subject>_test.csv`` of the original archive (no header: question, A, B, C, D, answer), or the hub's
parquet ``all/test-…`` (question, subject, choices, answer 0 to 3). All 57 subjects must be there; of a set that is
smaller on purpose, ``subjects.txt`` in the task's folder names those that are, one a line. ``auxiliary_train`` is read
too; its questions are of no subject, and the hub wraps each in a column ``train``.

Metric: accuracy over all questions, which is how the size of Table 2's figures reads (inferred). Beside it the four
categories of the original ``categories.py`` and the mean over subjects (``macro``), which others report; the groups are
the subjects. lm-eval counts anatomy to STEM, here as there it is "other".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.choosing import LetterTask, letter_at, lettered_question
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.task import Item, Source
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import data_folder, read_text, take
from llava_teamlora.evaluation.types import Sample, Score, Scores, Verdict

_CATEGORIES = {
    "STEM": "abstract_algebra astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management "
    "marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
}
CATEGORY_OF = {subject: name for name, subjects in _CATEGORIES.items() for subject in subjects.split()}
"""The four categories by subject."""

_COLUMNS = ("question", "A", "B", "C", "D", "answer")
_OPTIONS = "ABCD"


class Mmlu(LetterTask):
    """See the module's text."""

    name = folder = "mmlu"
    summary = "MMLU's 14042 test questions of 57 subjects, four options each; text only"
    version = 1
    groups = tuple(sorted(CATEGORY_OF))
    headline = (*_CATEGORIES, "macro", "unparsed")
    instruction = "Choose the correct answer to the question below; reply with its letter."
    paraphrases = (
        "Answer this question with the letter of one of the choices.",
        "Which choice is right: A, B, C or D?",
        "Read the question, weigh the four choices, and name the letter of the correct one.",
        "Give the letter that stands for the right answer.",
        "Decide which of the choices answers the question.",
        "From the choices, pick the one that is true or fits best.",
        "What is the answer to this question? Name one of the letters.",
    )
    tests = (
        Source(
            ("data/test/*_test.csv", "test/*_test.csv", "all/test-*.parquet", "test*.parquet"),
            "the test split, 57 subjects, 14,042 questions",
            "https://people.eecs.berkeley.edu/~hendrycks/data.tar, or cais/mmlu on the hub",
            "test",
        ),
    )

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """See ``Benchmark.load``. A key is ``test/<subject>/<number in it>``, the same in both editions."""
        samples, folder = super().load(data_root), data_folder(data_root, self.folder)
        listed = folder / "subjects.txt"
        wanted = read_text(listed).split() if listed.is_file() else list(self.groups)
        if strange := next((sample for sample in samples if sample.group not in wanted), None):
            where = f"none of those in {listed}" if listed.is_file() else "no subject of MMLU's test split"
            raise UserError(f"{folder}: the subject of {strange.key!r} is {where}; move its file elsewhere")
        found = {sample.group for sample in samples}
        if missing := [subject for subject in wanted if subject not in found]:
            raise UserError(
                f"{folder}: lacks {len(missing)} of {len(wanted)} subjects ({', '.join(missing[:3])}…); get them, or "
                f"list those that are there, one a line, in {listed}"
            )
        return samples

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of one subject's table, or of a parquet file of many."""
        table = path.suffix == ".csv"
        count: Counter[str] = Counter()
        for where, row in rows(path, columns=_COLUMNS if table else ()):
            row = row["train"] if isinstance(row.get("train"), dict) else row
            subject = path.stem.rpartition("_")[0] if table else take(row, "subject", str, where)
            choices = _choices(row, where)
            question = take(row, "question", str, where).strip()
            yield Item(
                key=f"{subject or path.stem}/{count[subject]}",
                input=lettered_question(question, choices),
                answers=(_answer(row, choices, where),),
                where=where,
                texts=(question, *choices),
                group=subject if subject in CATEGORY_OF else group,
                choices=choices,
            )
            count[subject] += 1

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Accuracy in total and by subject; by category, and the mean over subjects."""
        scores = grouped_mean(samples, verdicts, self.groups)
        further = {**_by_category(samples, verdicts), "macro": _macro(scores), **scores.extra}
        return Scores(scores.total, scores.groups, further)


def _by_category(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> dict[str, Score]:
    members: dict[str, list[int]] = {name: [] for name in _CATEGORIES}
    for index, sample in enumerate(samples):
        members[CATEGORY_OF[sample.group]].append(index)
    return {
        name: mean_score([samples[i] for i in indices], [verdicts[i] for i in indices])
        for name, indices in members.items()
        if indices
    }


def _macro(scores: Scores) -> Score:
    """Mean over subjects; its standard error is of the questions, the subjects being given: sqrt(sum s_i^2) / n."""
    subjects = list(scores.groups.values())
    errors = [score.stderr for score in subjects]
    known = [error for error in errors if error is not None]
    stderr = sum(error**2 for error in known) ** 0.5 / len(known) if len(known) == len(errors) else None
    return Score(sum(score.value for score in subjects) / len(subjects), stderr, scores.total.n)


def _choices(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "choices" not in row:
        return tuple(take(row, letter, str, where).strip() for letter in _OPTIONS)
    choices = take(row, "choices", list, where)
    if len(choices) != len(_OPTIONS) or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"{where}: 'choices' must be {len(_OPTIONS)} texts, found {choices!r:.80}")
    return tuple(choice.strip() for choice in choices)


def _answer(row: Mapping[str, Any], choices: Sequence[str], where: str) -> str:
    answer = take(row, "answer", (str, int), where)
    if isinstance(answer, int):
        return letter_at(answer, choices, where)
    if len(answer) != 1 or answer not in _OPTIONS:
        raise UserError(f"{where}: 'answer' must be A, B, C or D, found {answer!r:.80}; is the file MMLU's, unchanged?")
    return answer
