"""VizWiz: questions that blind people asked about their own photographs; many cannot be answered.

Two splits, each under ``vizwiz/``, with ten answers a question:

* ``vizwiz``, as LLaVA runs it: the 8000 of ``llava_test.jsonl``, pictures in ``test/``. The truth is the server's.
* ``vizwiz_val``: the 4319 of the official ``val.json``, pictures in ``val/``, scored here as the server would score
  LLaVA's submission: EvalAI's processor first, then the official accuracy (see ``evaluation/vqa_accuracy.py``).

The official tool also rates a model's confidence that a question can be answered, by average precision and F1. An
answer in words holds no confidence to rank by, so there is no average precision here; F1 is that of the plain
decision, an answer ``unanswerable`` or another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.question_files import (
    EVAL_ZIP,
    SHORT_ANSWER,
    question_row,
    read_question_file,
    refuse_repeats,
)
from llava_teamlora.evaluation.benchmarks.served import ServedSplit
from llava_teamlora.evaluation.jackknife import jackknife_stderr
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import data_folder, read_json_list, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.evaluation.vqa_accuracy import evalai_answer, take_answers, vizwiz_accuracy
from llava_teamlora.files import write_atomically

_HINT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_SITE = "https://vizwiz.org/tasks-and-datasets/vqa/"
_UNANSWERABLE = "unanswerable"


class VizWizTest(ServedSplit):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "vizwiz"
    summary = "8000 questions of blind people (VizWiz-VQA test); scored by its server"
    metric = "VQA accuracy"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = ()
    server = "submit the file at https://eval.ai/web/challenges/challenge-page/2185, or score vizwiz_val here"

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """A key is the picture's file name."""
        folder = _folder(data_root)
        questions = read_question_file(folder / "llava_test.jsonl", self.name)
        refuse_repeats("image", ((question.where, question.image) for question in questions))
        return [
            Sample(
                key=question.image,
                question_id=question.question_id,
                prompt=question.text,
                targets=(),
                image=folder / "test" / question.image,
                cluster=question.image,
            )
            for question in questions
        ]

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions and pictures."""
        folder = _folder(data_root)
        official = Need(folder / "test.json", "the official questions", f"Annotations.zip, {_SITE}")
        return [
            Need(folder / "llava_test.jsonl", "LLaVA's questions", EVAL_ZIP, made_from=(official,)),
            Need(folder / "test", "the pictures", f"test.zip, {_SITE}", pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question file from the official ``test.json``; ids are row numbers."""
        folder = _folder(data_root)
        rows = [
            question_row(number, take(row, "image", str, where), _prompt(row, where))
            for number, (where, row) in enumerate(read_json_list(folder / "test.json"))
        ]
        return {folder / "llava_test.jsonl": rows}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """As LLaVA's ``convert_vizwiz_for_submission.py``."""
        return [_write_submission(samples, texts, out / "vizwiz_test.json")]


class VizWizVal(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "vizwiz_val"
    summary = "4319 questions of blind people (VizWiz-VQA val), scored here"
    metric = "VQA accuracy"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = ("yes/no", "number", "other", _UNANSWERABLE)

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """A key is the picture's file name; a question's id its row, as in LLaVA's test file."""
        path = _folder(data_root) / "val.json"
        rows = read_json_list(path)
        refuse_repeats("image", ((where, take(row, "image", str, where)) for where, row in rows))
        return [self._sample(number, row, where, path.parent) for number, (where, row) in enumerate(rows)]

    def _sample(self, number: int, row: dict[str, Any], where: str, folder: Path) -> Sample:
        kind = take(row, "answer_type", str, where)
        answerable = take(row, "answerable", int, where)
        if kind not in self.groups:
            raise UserError(f"{where}: 'answer_type' must be one of {', '.join(self.groups)}, found {kind!r}")
        if answerable not in (0, 1):
            raise UserError(f"{where}: 'answerable' must be 0 or 1, found {answerable}")
        return Sample(
            key=row["image"],
            question_id=number,
            prompt=_prompt(row, where),
            targets=take_answers(row, where),
            image=folder / "val" / row["image"],
            group=kind,
            cluster=row["image"],
            metadata={"answerable": answerable},
        )

    def judge(self, sample: Sample, text: str) -> Verdict:
        """The official accuracy of what would be submitted."""
        return Verdict(*vizwiz_accuracy(evalai_answer(text), sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """By answer type; beside it what can and cannot be answered, and F1 of telling the latter."""
        scores = grouped_mean(samples, verdicts, self.groups)
        rows = list(zip(samples, verdicts, strict=True))
        for name, answerable in (("answerable", 1), ("not answerable", 0)):
            found = [(s, v) for s, v in rows if s.metadata["answerable"] == answerable]
            if found:
                scores.extra[name] = mean_score([s for s, _ in found], [v for _, v in found])
        scores.extra["unanswerable F1"] = _unanswerable_f1(rows)
        return scores

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """What giving up every time is worth."""
        return {_UNANSWERABLE: Baseline("always 'unanswerable'", {sample.key: _UNANSWERABLE for sample in samples})}

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions with answers, and pictures."""
        folder = _folder(data_root)
        return [
            Need(folder / "val.json", "questions with ten answers each", f"Annotations.zip, {_SITE}"),
            Need(folder / "val", "the pictures", f"val.zip, {_SITE}", pictures=True),
        ]

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """The submission, for the official tool on one's own machine."""
        return [_write_submission(samples, texts, out / "vizwiz_val.json")]


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "vizwiz")


def _prompt(row: dict[str, Any], where: str) -> str:
    """LLaVA's; spaces around the question stay."""
    return take(row, "question", str, where).capitalize() + _HINT + SHORT_ANSWER


def _write_submission(samples: Sequence[Sample], texts: Sequence[str], path: Path) -> Path:
    rows = [{"image": sample.key, "answer": evalai_answer(text)} for sample, text in zip(samples, texts, strict=True)]
    write_atomically(path, json.dumps(rows))
    return path


def _unanswerable_f1(rows: Sequence[tuple[Sample, Verdict]]) -> Score:
    """F1 of saying so where it was so, as scikit-learn's f1_score: 0 where neither was ever the case."""
    counts = []
    for sample, verdict in rows:
        said, true = verdict.parsed == _UNANSWERABLE, sample.metadata["answerable"] == 0
        counts.append((float(said and true), float(said + true)))
    hits, marked = (sum(column) for column in zip(*counts, strict=True))
    stderr = jackknife_stderr(counts, lambda sums: 2 * sums[0] / sums[1])
    return Score(2 * hits / marked if marked else 0.0, stderr, len(rows))
