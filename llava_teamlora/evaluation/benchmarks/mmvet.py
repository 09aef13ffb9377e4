"""MM-Vet: 218 questions about 200 pictures, answered freely and graded 0 to 1 by a judge model.

Data: ``mm-vet/mm-vet.json`` {id: {imagename, question, answer, capability, …}} and LLaVA's ``llava-mm-vet.jsonl``
{image, text, category, question_id}, which is made from it; pictures in ``mm-vet/images``. Prompt: the bare question.
Metric, as mm-vet_evaluator.py (yuweihao/MM-Vet) has it: mean grade in total, per capability (a question counts
towards each it needs) and per exact set of them; over several runs of the judge the mean, with the standard
deviation of the runs' totals. Grades come from that tool's grade file, or from ``evaluate grade``, which writes the
same.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.question_files import EVAL_ZIP
from llava_teamlora.evaluation.judging.provenance import Provenance, check_answer, read_provenance, ungraded
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import data_folder, read_json_lines, read_json_object, take
from llava_teamlora.evaluation.types import Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
RUNS_SD = "sd over runs"
_SOURCE = "mm-vet.zip of github.com/yuweihao/MM-Vet (releases)"


class MmVet(Benchmark):
    """See the module's text. Ungraded: it can be answered and exported, not scored."""

    name = "mmvet"
    summary = "MM-Vet: 218 questions that need several capabilities at once; free answers, graded by a judge"
    metric = "MM-Vet score"
    version = 1
    max_new_tokens = 1024
    groups = CAPABILITIES
    headline = (*CAPABILITIES, RUNS_SD)
    judged = True

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """LLaVA's questions in their order, with the truth. A key is ``v1_<question id>``."""
        folder = _folder(data_root)
        truths = _read_truths(folder)
        path = folder / "llava-mm-vet.jsonl"
        rows = read_json_lines(path)
        keys = [f"v1_{take(row, 'question_id', int, where)}" for where, row in rows]
        _refuse_other_ids(path, keys, folder / "mm-vet.json", list(truths))
        return [_sample(key, row, where, truths[key], folder) for key, (where, row) in zip(keys, rows, strict=True)]

    def judge(self, sample: Sample, text: str) -> Verdict:
        """Needs grades; see :meth:`with_grades`."""
        raise ungraded(self.name)

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Needs grades; see :meth:`with_grades`."""
        raise ungraded(self.name)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """The official file, LLaVA's and the pictures."""
        folder = _folder(data_root)
        official = Need(folder / "mm-vet.json", "questions, answers and capabilities", _SOURCE)
        return [
            official,
            Need(folder / "llava-mm-vet.jsonl", "LLaVA's questions", EVAL_ZIP, made_from=(official,)),
            Need(folder / "images", "pictures", _SOURCE, pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """``llava-mm-vet.jsonl``, as LLaVA published it."""
        folder = _folder(data_root)
        rows = [
            {"image": truth.image, "text": truth.question, "category": "conv", "question_id": _number(key, folder)}
            for key, truth in _read_truths(folder).items()
        ]
        return {folder / "llava-mm-vet.jsonl": rows}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """``mmvet.json``, {"v1_k": answer}: what the official tool grades, as convert_mmvet_for_eval.py writes it."""
        path = out / "mmvet.json"
        content = {sample.key: text for sample, text in zip(samples, texts, strict=True)}
        write_atomically(path, json.dumps(content, indent=2))
        return [path]

    def with_grades(self, grades: Path) -> Benchmark:
        """Scored by a grade file of the official tool or of ``evaluate grade``."""
        return _Graded(grades)


class _Graded(MmVet):
    """MM-Vet with a judge's grades at hand."""

    def __init__(self, path: Path) -> None:
        self._grades = read_grades(path)
        runs = f"{self._grades.runs} run{'s' if self._grades.runs > 1 else ''}"
        self.metric = f"{MmVet.metric} ({self._grades.label()}, {runs})"
        self.graded = frozenset(self._grades.scores)

    def load(self, data_root: Path | None = None) -> list[Sample]:
        samples = super().load(data_root)
        known = {sample.key for sample in samples}
        extra = [key for key in self._grades.scores if key not in known]
        if extra:
            raise UserError(
                f"{self._grades.path}: grades {len(extra)} questions that the data has not ({', '.join(extra[:3])}); "
                "is it of another benchmark, or of MM-Vet v2?"
            )
        return samples

    def judge(self, sample: Sample, text: str) -> Verdict:
        grades = self._grades
        if sample.key not in grades.scores:
            raise UserError(
                f"{grades.path}: has no grade for {sample.key} (it grades {len(grades.scores)} questions); "
                "grade the rest, or score only the graded answers with --partial"
            )
        check_answer(grades.provenance, sample.key, text, grades.path)
        scores = grades.scores[sample.key]
        runs = {f"run {number}": score for number, score in enumerate(scores, start=1)} if len(scores) > 1 else {}
        return Verdict(" ".join(f"{score:g}" for score in scores), math.fsum(scores) / len(scores), runs)

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        pairs = list(zip(samples, verdicts, strict=True))
        groups = {}
        for name in CAPABILITIES:
            if members := [(s, v) for s, v in pairs if name in s.metadata["capability"]]:
                groups[name] = mean_score([s for s, _ in members], [v for _, v in members])
        sets = [group for group, _ in Counter(sample.group for sample in samples).most_common()]
        extra = grouped_mean(samples, verdicts, sets).groups
        if runs := list(verdicts[0].extra):
            totals = [math.fsum(verdict.extra[run] for verdict in verdicts) / len(verdicts) for run in runs]
            # The official tool's figure is numpy's std, of the runs at hand: n, not n - 1.
            extra = {RUNS_SD: Score(statistics.pstdev(totals), None, len(runs)), **extra}
        return Scores(mean_score(samples, verdicts), groups, extra)


@dataclass(frozen=True)
class Grades:
    """A grade file.

    Attributes:
        path: where it lies.
        scores: by sample key, one a run, 0 to 1.
        judges: what the judges call themselves, the commonest first.
        provenance: who made it by which prompt, where that is known.
    """

    path: Path
    scores: dict[str, tuple[float, ...]]
    judges: tuple[str, ...]
    provenance: Provenance | None

    @property
    def runs(self) -> int:
        """How often each answer was graded."""
        return len(next(iter(self.scores.values())))

    def label(self) -> str:
        """The judge, for the metric's name."""
        return ", ".join(self.judges) if self.provenance is None else self.provenance.label()


def read_grades(path: Path) -> Grades:
    """A grade file as the official tool writes it: {id: {model: […], content: […], score: […]}}, one entry a run.

    Raises:
        UserError: it is something else, a score is not in 0 to 1, or the answers were not all graded equally often.
    """
    if path.suffix.lower() == ".csv":
        raise UserError(f"{path}: is the official tool's table of means; give the …-grade-….json that lies beside it")
    content = read_json_object(path)
    if not content:
        raise UserError(f"{path}: holds no grades")
    scores: dict[str, tuple[float, ...]] = {}
    judges: Counter[str] = Counter()
    for key in content:
        where = f"{path}, {key}"
        entry = take(content, key, dict, str(path))
        models, replies, found = (take(entry, name, list, where) for name in ("model", "content", "score"))
        if not len(models) == len(replies) == len(found):
            raise UserError(
                f"{where}: has {len(models)} models, {len(replies)} contents and {len(found)} scores; one each a run"
            )
        scores[key] = tuple(_grade(value, where, run) for run, value in enumerate(found, start=1))
        judges.update(map(str, models))
    _refuse_uneven_runs(path, scores)
    return Grades(path, scores, tuple(name for name, _ in judges.most_common()), read_provenance(path))


def _grade(value: Any, where: str, run: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # NaN is not either
        raise UserError(f"{where}, run {run}: 'score' must be a number from 0 to 1, found {value!r:.40}")
    return float(value)


def _refuse_uneven_runs(path: Path, scores: dict[str, tuple[float, ...]]) -> None:
    counts = Counter(map(len, scores.values()))
    if len(counts) > 1 or 0 in counts:
        usual = max(counts)
        fewer = [key for key, found in scores.items() if len(found) != usual]
        found = ", ".join(f"{number} questions with {runs} runs" for runs, number in sorted(counts.items()))
        raise UserError(f"{path}: holds {found} ({', '.join(fewer[:3])} among the fewer); finish the grading first")


@dataclass(frozen=True)
class _Truth:
    """One entry of mm-vet.json."""

    image: str
    question: str
    answer: str
    capability: tuple[str, ...]


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "mm-vet")


def _read_truths(folder: Path) -> dict[str, _Truth]:
    path = folder / "mm-vet.json"
    content = read_json_object(path)
    truths = {}
    for key in content:
        where = f"{path}, {key}"
        entry = take(content, key, dict, str(path))
        image, question, answer = (take(entry, name, str, where) for name in ("imagename", "question", "answer"))
        needed = take(entry, "capability", list, where)
        strange = [name for name in needed if name not in CAPABILITIES]
        if strange or not needed:
            raise UserError(f"{where}: 'capability' must be some of {', '.join(CAPABILITIES)}, found {needed!r:.80}")
        truths[key] = _Truth(image, question, answer, tuple(name for name in CAPABILITIES if name in needed))
    return truths


def _sample(key: str, row: dict[str, Any], where: str, truth: _Truth, folder: Path) -> Sample:
    image = take(row, "image", str, where)
    if image != truth.image:
        raise UserError(f"{where}: its picture is {image!r}, but mm-vet.json has {truth.image!r} for {key}")
    return Sample(
        key=key,
        question_id=row["question_id"],
        prompt=take(row, "text", str, where),
        targets=(truth.answer,),
        image=folder / "images" / image,
        # Not a capability's name, whose score is of all questions that need it.
        group=f"only {'_'.join(truth.capability)}",
        cluster=image,
        metadata={"capability": list(truth.capability)},
    )


def _number(key: str, folder: Path) -> int:
    """``v1_7`` -> 7."""
    number = key.removeprefix("v1_")
    if not (key.startswith("v1_") and number.isdecimal() and number == str(int(number))):
        raise UserError(f"{folder / 'mm-vet.json'}: {key!r} is not an id of MM-Vet v1 (v1_0, v1_1, …)")
    return int(number)


def _refuse_other_ids(path: Path, keys: Sequence[str], truth_path: Path, truths: Sequence[str]) -> None:
    """Raise UserError unless both files are about the same questions, each once."""
    twice = [key for key, count in Counter(keys).items() if count > 1]
    unknown = [key for key in keys if key not in set(truths)]
    missing = [key for key in truths if key not in set(keys)]
    problems = {"twice": twice, f"not in {truth_path.name}": unknown, f"only in {truth_path.name}": missing}
    found = [f"{len(some)} {kind} ({', '.join(some[:3])})" for kind, some in problems.items() if some]
    if found:
        raise UserError(f"{path}: questions {', '.join(found)}; are the two files of different editions?")
