"""TextVQA val: 5000 questions about text in 3166 pictures, with OCR tokens in the prompt as LLaVA gives them.

Data, under ``textvqa/``: LLaVA's ``llava_textvqa_val_v051_ocr.jsonl`` (its ``question_id`` is the picture's, so that
question and picture together are the key), the official ``TextVQA_0.5.1_val.json`` with ten answers each, and the
pictures in ``train_images/``. Metric: M4C's evaluator as LLaVA runs it (``llava/eval/eval_textvqa.py``); see
``evaluation/vqa_accuracy.py``.
"""

from __future__ import annotations

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
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.reading import data_folder, read_json_rows, take
from llava_teamlora.evaluation.types import Benchmark, Need, Sample, Scores, Verdict
from llava_teamlora.evaluation.vqa_accuracy import evalai_answer, soft_accuracy, take_answers

_QUESTIONS = "llava_textvqa_val_v051_ocr.jsonl"
_ANNOTATIONS = "TextVQA_0.5.1_val.json"
_OCR = "TextVQA_Rosetta_OCR_v0.2_val.json"
_OCR_LINE = "\nReference OCR token: "
_SITE = "https://textvqa.org/dataset"

Key = tuple[str, str]
"""Picture and question in lower case: what LLaVA's scorer joins on."""


class TextVqa(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "textvqa"
    summary = "5000 questions about text in pictures (TextVQA 0.5.1 val), OCR tokens in the prompt"
    metric = "VQA accuracy (M4C)"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = ()

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """Targets are the ten answers as the evaluator leaves them."""
        folder = _folder(data_root)
        questions = read_question_file(folder / _QUESTIONS, self.name)
        annotated = _answers(folder / _ANNOTATIONS)
        keys = [_key(question) for question in questions]
        refuse_repeats("the question", ((q.where, key) for q, key in zip(questions, keys, strict=True)))
        for question, key in zip(questions, keys, strict=True):
            if key not in annotated:
                raise UserError(
                    f"{question.where}: {folder / _ANNOTATIONS} has no question {key[1]!r} about {key[0]!r}; "
                    "are the files of one edition (0.5.1)?"
                )
        unasked = annotated.keys() - set(keys)
        if unasked:
            raise UserError(
                f"{folder / _QUESTIONS}: lacks {len(unasked)} questions of {folder / _ANNOTATIONS}, {min(unasked)} "
                "first; take the whole file"
            )
        return [
            Sample(
                key="/".join(key),
                question_id=question.question_id,
                prompt=question.text,
                targets=tuple(evalai_answer(answer) for answer in annotated[key]),
                image=folder / "train_images" / question.image,
                cluster=key[0],
            )
            for question, key in zip(questions, keys, strict=True)
        ]

    def judge(self, sample: Sample, text: str) -> Verdict:
        """0, .3, .6, .9 or 1."""
        parsed = evalai_answer(text)
        return Verdict(parsed, soft_accuracy(parsed, sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """The mean, its standard error clustered by picture."""
        return grouped_mean(samples, verdicts, self.groups)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions, answers, pictures."""
        folder = _folder(data_root)
        annotations = Need(folder / _ANNOTATIONS, "the ten answers to each question", _SITE)
        tokens = Need(folder / _OCR, "OCR tokens", _SITE)
        return [
            Need(folder / _QUESTIONS, "LLaVA's questions with OCR tokens", EVAL_ZIP, made_from=(annotations, tokens)),
            annotations,
            Need(folder / "train_images", "the pictures", f"train_val_images.zip, {_SITE}", pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question file from the annotations and the official OCR tokens (Rosetta, v0.2)."""
        folder = _folder(data_root)
        tokens = _ocr_tokens(folder / _OCR)
        rows = []
        for where, row in read_json_rows(folder / _ANNOTATIONS, "data"):
            picture = take(row, "image_id", str, where)
            if picture not in tokens:
                raise UserError(f"{where}: {folder / _OCR} has no picture {picture!r}")
            question = take(row, "question", str, where).capitalize()
            text = question + _OCR_LINE + ", ".join(tokens[picture]) + SHORT_ANSWER
            rows.append(question_row(picture, f"{picture}.jpg", text))
        return {folder / _QUESTIONS: rows}


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "textvqa")


def _key(question: Question) -> Key:
    """Picture and bare question of a prompt, taken apart as LLaVA's scorer does."""
    lines = question.text.split("\n")
    if len(lines) != 3 or not lines[1].startswith(_OCR_LINE.strip("\n")):
        raise UserError(
            f"{question.where}: 'text' must be the question, a line '{_OCR_LINE.strip()} …' and the instruction, "
            f"found {question.text!r:.200}"
        )
    return str(question.question_id), lines[0].lower()


def _answers(path: Path) -> dict[Key, tuple[str, ...]]:
    found: dict[Key, tuple[str, ...]] = {}
    places = []
    for where, row in read_json_rows(path, "data"):
        key = take(row, "image_id", str, where), take(row, "question", str, where).lower()
        places.append((where, key))
        found[key] = take_answers(row, where)
    refuse_repeats("the question", places)
    return found


def _ocr_tokens(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for where, row in read_json_rows(path, "data"):
        tokens = take(row, "ocr_tokens", list, where)
        strange = [token for token in tokens if not isinstance(token, str)]
        if strange:
            raise UserError(f"{where}: 'ocr_tokens' must be texts, found {strange[0]!r:.80}")
        found[take(row, "image_id", str, where)] = tokens
    return found
