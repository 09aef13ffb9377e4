"""VQAv2: open questions about COCO pictures, ten answers each.

Two splits, each under ``vqav2/``:

* ``vqav2``, as LLaVA runs it: the 107,394 of test-dev (``llava_vqav2_mscoco_test-dev2015.jsonl``), pictures in
  ``test2015/``. The truth is the server's, which takes answers to all 447,793 test questions
  (``llava_vqav2_mscoco_test2015.jsonl``); like LLaVA we send "" for those that test-dev lacks.
* ``vqav2_val``: the 214,354 of the official ``v2_OpenEnded_mscoco_val2014_questions.json`` with
  ``v2_mscoco_val2014_annotations.json``, pictures in ``val2014/``, scored here as the server would score LLaVA's
  submission: EvalAI's processor first, then the official accuracy (see ``evaluation/vqa_accuracy.py``). The
  official accuracy by first words of the question (65 kinds) is not given: run the tool on the export.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from sys import intern
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
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.reading import data_folder, read_json_rows, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Scores, Verdict
from llava_teamlora.evaluation.vqa_accuracy import evalai_answer, take_answers, vqa_accuracy
from llava_teamlora.files import write_atomically

_TEST_DEV = "llava_vqav2_mscoco_test-dev2015.jsonl"
_TEST = "llava_vqav2_mscoco_test2015.jsonl"
_OFFICIAL = {
    _TEST_DEV: "v2_OpenEnded_mscoco_test-dev2015_questions.json",
    _TEST: "v2_OpenEnded_mscoco_test2015_questions.json",
}
_VAL_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
_VAL_ANSWERS = "v2_mscoco_val2014_annotations.json"
_SITE = "https://visualqa.org/download.html"


class VqaV2TestDev(ServedSplit):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "vqav2"
    summary = "107,394 questions about COCO pictures (VQAv2 test-dev); scored by its server"
    metric = "VQA accuracy"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = ()
    server = "submit the file at https://eval.ai/web/challenges/challenge-page/830, or score vqav2_val here"

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """A key is the question's id."""
        folder = _folder(data_root)
        questions = read_question_file(folder / _TEST_DEV, self.name)
        refuse_repeats("question_id", ((question.where, question.question_id) for question in questions))
        return [
            Sample(
                key=str(question.question_id),
                question_id=question.question_id,
                prompt=question.text,
                targets=(),
                image=folder / "test2015" / question.image,
                cluster=question.image,
            )
            for question in questions
        ]

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Both question files and the pictures."""
        folder = _folder(data_root)
        official = tuple(Need(folder / name, "official questions", _SITE) for name in _OFFICIAL.values())
        what = {
            _TEST_DEV: "LLaVA's test-dev questions",
            _TEST: "LLaVA's list of all test questions, for the export",
        }
        return [
            *(Need(folder / name, text, EVAL_ZIP, made_from=official) for name, text in what.items()),
            Need(folder / "test2015", "the pictures", f"COCO's test2015.zip, {_SITE}", pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's two question files from the official ones."""
        folder = _folder(data_root)
        return {
            folder / ours: [
                question_row(number, _picture("test2015", picture), question + SHORT_ANSWER)
                for _, number, picture, question in _official_questions(folder / theirs)
            ]
            for ours, theirs in _OFFICIAL.items()
        }

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """As LLaVA's ``convert_vqav2_for_submission.py``: all test questions, "" for those without an answer."""
        path = _folder(data_root) / _TEST
        asked = [question.question_id for question in read_question_file(path, self.name)]
        answers = {s.question_id: evalai_answer(text) for s, text in zip(samples, texts, strict=True)}
        strangers = answers.keys() - set(asked)
        if strangers:
            raise UserError(
                f"{path}: lacks {len(strangers)} of the {len(answers)} questions answered, {min(strangers, key=str)!r} "
                "among them; take the whole file"
            )
        return [_write(out / "vqav2_test.json", [(number, answers.get(number, "")) for number in asked])]


class VqaV2Val(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "vqav2_val"
    summary = "214,354 questions about COCO pictures (VQAv2 val), scored here"
    metric = "VQA accuracy"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = ("yes/no", "number", "other")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """A key is the question's id. Targets are the ten answers as annotated."""
        folder = _folder(data_root)
        questions = _official_questions(folder / _VAL_QUESTIONS)
        annotated = _annotations(folder / _VAL_ANSWERS)
        pictures: dict[int, Path] = {}
        samples = []
        for where, number, picture, question in questions:
            if number not in annotated:
                raise UserError(f"{where}: {folder / _VAL_ANSWERS} has no answers to question_id {number}")
            kind, answers = annotated.pop(number)
            if picture not in pictures:
                pictures[picture] = folder / "val2014" / _picture("val2014", picture)
            samples.append(
                Sample(
                    key=str(number),
                    question_id=number,
                    prompt=question + SHORT_ANSWER,
                    targets=answers,
                    image=pictures[picture],
                    group=kind,
                    cluster=str(picture),
                )
            )
        if annotated:
            raise UserError(
                f"{folder / _VAL_QUESTIONS}: lacks {len(annotated)} questions of {folder / _VAL_ANSWERS}, question_id "
                f"{min(annotated)} first; are both of val2014?"
            )
        return samples

    def judge(self, sample: Sample, text: str) -> Verdict:
        """The official accuracy of what would be submitted."""
        return Verdict(*vqa_accuracy(evalai_answer(text), sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """By answer type, standard errors clustered by picture."""
        return grouped_mean(samples, verdicts, self.groups)

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """What the commonest answer of all is worth."""
        return {"yes": Baseline("always 'yes'", {sample.key: "yes" for sample in samples})}

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions, answers, pictures."""
        folder = _folder(data_root)
        return [
            Need(folder / _VAL_QUESTIONS, "the questions", _SITE),
            Need(folder / _VAL_ANSWERS, "the ten answers to each question", _SITE),
            Need(folder / "val2014", "the pictures", f"COCO's val2014.zip, {_SITE}", pictures=True),
        ]

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """Results as the official tool takes them."""
        rows = [(sample.question_id, evalai_answer(text)) for sample, text in zip(samples, texts, strict=True)]
        return [_write(out / "vqav2_val.json", rows)]


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "vqav2")


def _picture(split: str, number: int) -> str:
    return f"COCO_{split}_{number:012d}.jpg"


def _official_questions(path: Path) -> list[tuple[str, int, int, str]]:
    """Place, question id, picture id and question of each row."""
    found = [
        (
            where,
            take(row, "question_id", int, where),
            take(row, "image_id", int, where),
            take(row, "question", str, where),
        )
        for where, row in read_json_rows(path, "questions")
    ]
    refuse_repeats("question_id", ((where, number) for where, number, _, _ in found))
    return found


def _annotations(path: Path) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Question id -> answer type and the ten answers; two million strings, most of them the same few."""
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for where, row in read_json_rows(path, "annotations"):
        number, kind = take(row, "question_id", int, where), take(row, "answer_type", str, where)
        if number in found:
            raise UserError(f"{where}: question_id {number} is annotated twice")
        if kind not in VqaV2Val.groups:
            raise UserError(f"{where}: 'answer_type' must be one of {', '.join(VqaV2Val.groups)}, found {kind!r}")
        found[number] = intern(kind), tuple(map(intern, take_answers(row, where)))
    return found


def _write(path: Path, answers: Sequence[tuple[int | str, str]]) -> Path:
    write_atomically(path, json.dumps([{"question_id": number, "answer": answer} for number, answer in answers]))
    return path
