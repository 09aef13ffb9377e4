"""GQA testdev balanced: 12,578 compositional questions about 398 pictures.

Data, under ``gqa/``: LLaVA's ``llava_gqa_testdev_balanced.jsonl``, the official
``data/testdev_balanced_questions.json`` and the pictures in ``data/images/``. Metric: an answer, less final periods
and in lower case as LLaVA's ``convert_gqa_for_eval.py`` leaves it, is right if it is the truth to the letter; the
sub-scores are those of the official ``eval.py``: by structure, binary and open, by subject, and ``distribution``,
the chi-square distance of answers from truths within groups of questions (a number, not percent; less is better).

Not given, of what ``eval.py`` prints: validity and plausibility (their choices were never published for testdev),
consistency (needs answers to the unbalanced questions), grounding (needs attention maps), and accuracy by number of
words and steps: for those run ``eval.py`` on the export.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.question_files import (
    EVAL_ZIP,
    SHORT_ANSWER,
    Question,
    question_row,
    read_question_file,
    refuse_repeats,
)
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import data_folder, expect_object, read_json_object, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

_QUESTIONS = "llava_gqa_testdev_balanced.jsonl"
_OFFICIAL = "testdev_balanced_questions.json"
_SITE = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
_SUBJECTS = {"attr": "attribute", "cat": "category", "global": "scene", "obj": "object", "rel": "relation"}
_DISTRIBUTION = "distribution ↓"


class Gqa(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "gqa"
    summary = "12,578 compositional questions about pictures (GQA testdev balanced)"
    metric = "accuracy"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = ("verify", "query", "choose", "logical", "compare")
    headline = (*groups, "binary", "open")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """A key is the question's id."""
        folder = _folder(data_root)
        official = _official(folder)
        questions = read_question_file(folder / _QUESTIONS, self.name)
        refuse_repeats("question_id", ((question.where, question.question_id) for question in questions))
        samples = [self._sample(question, official, folder / "data") for question in questions]
        if len(samples) < len(official):
            absent = min(official.keys() - {sample.key for sample in samples})
            raise UserError(
                f"{folder / _QUESTIONS}: lacks {len(official) - len(samples)} questions of {_OFFICIAL} "
                f"({absent!r} first); take the whole file"
            )
        return samples

    def _sample(self, question: Question, official: dict[str, dict[str, Any]], data: Path) -> Sample:
        number = str(question.question_id)
        if number not in official:
            raise UserError(
                f"{question.where}: {data / _OFFICIAL} has no question {number!r}; is it of testdev_balanced?"
            )
        row, where = official[number], f"{data / _OFFICIAL}, {number!r}"
        text = take(row, "question", str, where) + SHORT_ANSWER
        if question.text != text:
            raise UserError(
                f"{question.where}: 'text' is {question.text!r:.200}, but by {where} it must be {text!r:.200}"
            )
        kinds, groups = take(row, "types", dict, where), take(row, "groups", dict, where)
        structure, subject = take(kinds, "structural", str, where), take(kinds, "semantic", str, where)
        if structure not in self.groups or subject not in _SUBJECTS:
            raise UserError(
                f"{where}: 'types' must be one of {', '.join(self.groups)} and one of {', '.join(_SUBJECTS)}, "
                f"found {structure!r} and {subject!r}"
            )
        return Sample(
            key=number,
            question_id=question.question_id,
            prompt=question.text,
            targets=(take(row, "answer", str, where),),
            image=data / "images" / question.image,
            group=structure,
            cluster=take(row, "imageId", str, where),
            metadata={"subject": _SUBJECTS[subject], "alike": take(groups, "global", (str, type(None)), where)},
        )

    def judge(self, sample: Sample, text: str) -> Verdict:
        """The truth to the letter, or nothing."""
        parsed = _submitted(text)
        return Verdict(parsed, float(parsed in sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """By structure; beside it binary and open, by subject, and the distribution."""
        scores = grouped_mean(samples, verdicts, self.groups)
        rows = list(zip(samples, verdicts, strict=True))
        members: dict[str, list[tuple[Sample, Verdict]]] = {
            name: [] for name in ("binary", "open", *_SUBJECTS.values())
        }
        for sample, verdict in rows:
            members["open" if sample.group == "query" else "binary"].append((sample, verdict))
            members[sample.metadata["subject"]].append((sample, verdict))
        for name, found in members.items():
            if found:
                scores.extra[name] = mean_score([s for s, _ in found], [v for _, v in found])
        distribution = _distribution(rows)
        if distribution is not None:
            scores.extra[_DISTRIBUTION] = distribution
        return scores

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """What the commonest answer of all is worth."""
        return {"yes": Baseline("always 'yes'", {sample.key: "yes" for sample in samples})}

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions, truths, pictures."""
        folder = _folder(data_root)
        path = folder / "data" / _OFFICIAL
        official = Need(path, "the official questions with their answers", f"questions1.2.zip, {_SITE}")
        return [
            Need(folder / _QUESTIONS, "LLaVA's questions", EVAL_ZIP, made_from=(official,)),
            official,
            Need(folder / "data" / "images", "the pictures", f"images.zip, {_SITE}", pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question file from the official one."""
        folder = _folder(data_root)
        rows = []
        for number, row in _official(folder).items():
            where = f"{folder / 'data' / _OFFICIAL}, {number!r}"
            picture, question = take(row, "imageId", str, where), take(row, "question", str, where)
            rows.append(question_row(number, f"{picture}.jpg", question + SHORT_ANSWER))
        return {folder / _QUESTIONS: rows}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """As LLaVA's ``convert_gqa_for_eval.py``, under the name that ``eval.py --tier testdev_balanced`` looks for."""
        path = out / "testdev_balanced_predictions.json"
        rows = [
            {"questionId": sample.question_id, "prediction": _submitted(text)}
            for sample, text in zip(samples, texts, strict=True)
        ]
        write_atomically(path, json.dumps(rows))
        return [path]


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "gqa")


def _submitted(text: str) -> str:
    return text.rstrip(".").lower()


def _official(folder: Path) -> dict[str, dict[str, Any]]:
    """Question id -> official row.

    Raises:
        UserError: the file is missing or broken, or is not of the balanced questions.
    """
    path = folder / "data" / _OFFICIAL
    found = {number: expect_object(row, f"{path}, {number!r}") for number, row in read_json_object(path).items()}
    for number, row in found.items():
        if not take(row, "isBalanced", bool, f"{path}, {number!r}"):
            raise UserError(f"{path}, {number!r}: is not of the balanced questions; take {_OFFICIAL} of {_SITE}")
    return found


def _distribution(rows: Sequence[tuple[Sample, Verdict]]) -> Score | None:
    """eval.py's: per group of alike questions sum over truths of (said - true)^2 / true, weighted by size, / 100.

    Returns:
        None where no question is of a group.
    """
    true: dict[str, Counter[str]] = defaultdict(Counter)
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for sample, verdict in rows:
        group = sample.metadata["alike"]
        if group is not None:
            true[group][sample.targets[0]] += 1
            said[group][verdict.parsed] += 1
    if not true:
        return None
    size = sum(counts.total() for counts in true.values())
    distance = sum(
        counts.total() * sum((said[group][answer] - count) ** 2 / count for answer, count in counts.items())
        for group, counts in true.items()
    )
    return Score(distance / size / 100, None, size, maximum=1.0)
