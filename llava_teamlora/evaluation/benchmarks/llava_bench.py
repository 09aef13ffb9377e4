"""LLaVA-Bench (in the wild): 60 questions about 24 pictures; a judge marks the answers beside GPT-4's, 1 to 10 each.

Data: ``llava-bench-in-the-wild/questions.jsonl`` {question_id, image, category, text}, ``context.jsonl`` {image,
caption} and ``answers_gpt4.jsonl`` {question_id, text, answer_id} (GPT-4 saw the caption, not the picture); pictures
in ``images``. Prompt: the bare question. Metric, as LLaVA's summarize_gpt_review.py has it: sum of the answers' marks
over the sum of GPT-4's, in total and per category; so it may pass 100. Marks come from LLaVA's review file
(eval_gpt_review_bench.py), or from ``evaluate grade``, which writes the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.judging.provenance import Provenance, check_answer, read_provenance, ungraded
from llava_teamlora.evaluation.metrics import clustered_stderr, mean_score
from llava_teamlora.evaluation.reading import data_folder, read_json_lines, take
from llava_teamlora.evaluation.types import Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

CATEGORIES = ("conv", "detail", "complex")
REVIEWED = "llava_bench_"
"""What stands before a category's name in rule.json and in reviews."""
_MARKS = 10
_SOURCE = "huggingface: liuhaotian/llava-bench-in-the-wild"


class LlavaBench(Benchmark):
    """See the module's text. Ungraded: it can be answered and exported, not scored."""

    name = "llava_bench"
    summary = "LLaVA-Bench (in the wild): 60 open questions, marked by a judge beside GPT-4's answers"
    metric = "relative score to GPT-4's answers"
    version = 1
    max_new_tokens = 1024
    groups = CATEGORIES
    judged = True

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """The questions in their order; GPT-4's answer is the target. A key is the question id."""
        folder = _folder(data_root)
        rows = read_json_lines(folder / "questions.jsonl")
        references = read_references(data_root)
        samples = [_sample(row, where, folder, references) for where, row in rows]
        twice = [key for key, count in Counter(sample.key for sample in samples).items() if count > 1]
        if twice:
            raise UserError(f"{folder / 'questions.jsonl'}: {len(twice)} question ids twice ({', '.join(twice[:3])})")
        return samples

    def judge(self, sample: Sample, text: str) -> Verdict:
        """Needs grades; see :meth:`with_grades`."""
        raise ungraded(self.name)

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Needs grades; see :meth:`with_grades`."""
        raise ungraded(self.name)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions, GPT-4's answers, the captions that the judge sees, pictures."""
        folder = _folder(data_root)
        return [
            Need(folder / "questions.jsonl", "questions", _SOURCE),
            Need(folder / "answers_gpt4.jsonl", "GPT-4's answers", _SOURCE),
            Need(folder / "context.jsonl", "captions, for the judge", _SOURCE),
            Need(folder / "images", "pictures", _SOURCE, pictures=True),
        ]

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """``llava_bench.jsonl``: the answers in the questions' order, by which LLaVA's review script joins them."""
        path = out / "llava_bench.jsonl"
        rows = (answer_row(sample, text, "exported") for sample, text in zip(samples, texts, strict=True))
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return [path]

    def with_grades(self, grades: Path) -> Benchmark:
        """Scored by a review file of LLaVA's script or of ``evaluate grade``."""
        return _Graded(grades)


class _Graded(LlavaBench):
    """LLaVA-Bench with a judge's reviews at hand."""

    def __init__(self, path: Path) -> None:
        self._reviews = read_reviews(path)
        known = self._reviews.provenance
        # LLaVA's review file does not name its judge.
        self.metric = f"{LlavaBench.metric} ({known.label() if known else 'judge not recorded'})"
        self.graded = frozenset(self._reviews.marks)

    def load(self, data_root: Path | None = None) -> list[Sample]:
        samples = super().load(data_root)
        categories = {sample.key: sample.group for sample in samples}
        extra = [key for key in self._reviews.marks if key not in categories]
        if extra:
            raise UserError(
                f"{self._reviews.path}: reviews {len(extra)} questions that the data has not ({', '.join(extra[:3])})"
            )
        for key, found in self._reviews.categories.items():
            if found != categories[key]:
                raise UserError(f"{self._reviews.path}: question {key} is {found!r} there, {categories[key]!r} here")
        return samples

    def judge(self, sample: Sample, text: str) -> Verdict:
        reviews = self._reviews
        if sample.key not in reviews.marks:
            raise UserError(
                f"{reviews.path}: has no review of question {sample.key} (it has {len(reviews.marks)} reviews); "
                "grade the rest, or score only the graded answers with --partial"
            )
        check_answer(reviews.provenance, sample.key, text, reviews.path)
        reference, own = reviews.marks[sample.key]
        return Verdict(f"{reference:g} {own:g}", own / _MARKS, {"reference": reference / _MARKS})

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """The relative score; beside it the two mean marks that LLaVA's script prints, as shares of ten."""
        pairs = list(zip(samples, verdicts, strict=True))
        members = {name: [(s, v) for s, v in pairs if s.group == name] for name in CATEGORIES}
        references = [Verdict(verdict.parsed, verdict.extra["reference"]) for verdict in verdicts]
        return Scores(
            _relative(pairs),
            {name: _relative(found) for name, found in members.items() if found},
            {"answers": mean_score(samples, verdicts), "reference": mean_score(samples, references)},
        )


def _relative(pairs: Sequence[tuple[Sample, Verdict]]) -> Score:
    """Ratio of the two means, with the standard error of a ratio (delta method), clustered by picture."""
    own = math.fsum(verdict.score for _, verdict in pairs) / len(pairs)
    reference = math.fsum(verdict.extra["reference"] for _, verdict in pairs) / len(pairs)
    if reference == 0:
        raise UserError(f"all {len(pairs)} marks of the reference answers are 0, so no score can be relative to them")
    ratio = own / reference
    residuals = [(verdict.score - ratio * verdict.extra["reference"]) / reference for _, verdict in pairs]
    return Score(ratio, clustered_stderr(residuals, [sample.cluster for sample, _ in pairs]), len(pairs))


@dataclass(frozen=True)
class Reviews:
    """A review file.

    Attributes:
        path: where it lies.
        marks: by sample key, (reference, answer), 0 to 10.
        categories: by sample key, where the file says.
        provenance: who made it by which prompt, where that is known.
    """

    path: Path
    marks: dict[str, tuple[float, float]]
    categories: dict[str, str]
    provenance: Provenance | None


def read_reviews(path: Path) -> Reviews:
    """A review file as LLaVA's eval_gpt_review_bench.py writes it: JSON lines with question_id, category and tuple.

    Raises:
        UserError: it is something else, a question is there twice, or a review could not be read by who wrote it.
    """
    marks: dict[str, tuple[float, float]] = {}
    categories = {}
    unread = []
    for where, row in read_json_lines(path):
        key = str(take(row, "question_id", (int, str), where))
        found = take(row, "tuple", list, where)
        if found == [-1, -1]:
            unread.append(key)
            continue
        if len(found) != 2 or not all(_is_mark(mark) for mark in found):
            raise UserError(f"{where}: 'tuple' must be two marks from 0 to {_MARKS}, found {found!r:.60}")
        if key in marks:
            raise UserError(f"{where}: question {key} is reviewed a second time; one review a question")
        marks[key] = (float(found[0]), float(found[1]))
        if "category" in row:
            categories[key] = take(row, "category", str, where).removeprefix(REVIEWED)
    if unread:
        # Differs from summarize_gpt_review.py: it takes the -1 for marks.
        raise UserError(
            f"{path}: {len(unread)} reviews could not be read when they were made and have the tuple [-1, -1] "
            f"(questions {', '.join(unread[:3])}); put the two marks there by hand from 'content', or grade anew with "
            "llava-teamlora evaluate grade"
        )
    if not marks:
        raise UserError(f"{path}: holds no reviews")
    return Reviews(path, marks, categories, read_provenance(path))


def _is_mark(mark: Any) -> bool:
    return isinstance(mark, (int, float)) and not isinstance(mark, bool) and 0 <= mark <= _MARKS


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "llava-bench-in-the-wild")


def read_references(data_root: Path | None) -> dict[str, tuple[str, str]]:
    """(text, answer id) of GPT-4's answers, by sample key.

    Raises:
        UserError: the file is missing or broken.
    """
    found = {}
    for where, row in read_json_lines(_folder(data_root) / "answers_gpt4.jsonl"):
        key = str(take(row, "question_id", (int, str), where))
        found[key] = (take(row, "text", str, where), str(row.get("answer_id", key)))
    return found


def read_captions(data_root: Path | None) -> dict[str, str]:
    """What the judge is told of a picture, by the picture's file name.

    Raises:
        UserError: the file is missing or broken.
    """
    found = {}
    for where, row in read_json_lines(_folder(data_root) / "context.jsonl"):
        caption = take(row, "caption", (str, list), where)
        lines = caption if isinstance(caption, list) else [caption]
        if not all(isinstance(line, str) for line in lines):
            raise UserError(f"{where}: 'caption' must be a text or a list of texts, found {caption!r:.60}")
        found[take(row, "image", str, where)] = "\n".join(lines)
    return found


def _sample(row: dict[str, Any], where: str, folder: Path, references: dict[str, tuple[str, str]]) -> Sample:
    identity = take(row, "question_id", (int, str), where)
    image, category = take(row, "image", str, where), take(row, "category", str, where)
    if category not in CATEGORIES:
        raise UserError(f"{where}: 'category' must be one of {', '.join(CATEGORIES)}, found {category!r:.40}")
    if str(identity) not in references:
        raise UserError(f"{where}: answers_gpt4.jsonl has no answer to question {identity}; are they of one edition?")
    return Sample(
        key=str(identity),
        question_id=identity,
        prompt=take(row, "text", str, where),
        targets=(references[str(identity)][0],),
        image=folder / "images" / image,
        group=category,
        cluster=image,
    )
