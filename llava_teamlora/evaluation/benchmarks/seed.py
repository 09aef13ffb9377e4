"""SEED-Bench (the first): multiple choice about 14,233 questions on pictures and 5,009 on videos.

Data: ``SEED-Bench.json``, and LLaVA's ``llava-seed-bench.jsonl``, whose prompts and pictures are used (``evaluate
build`` makes it from the former). A video is shown as one frame from its middle, as LLaVA's
``extract_video_frames.py`` writes it: ``SEED-Bench-video-image/<type>_<id>.png``. Prompt: the question, the option
lines, the sentence that asks for a letter. Metric: as LLaVA's ``convert_seed_for_submission.py``, the answer is the
letter and nothing else (``A.`` is wrong, and ``unparsed``). The total is over all questions, which is what papers call
SEED; ``seed_image`` and ``seed_video`` stand beside it. The benchmark ``seed_image`` asks only about pictures.

SEED-Bench's own tool does not read letters: it ranks the options' texts by their likelihood after the question alone,
without option lines (summed over tokens for InstructBLIP, averaged for LLaVA-1.5). ``Sample.choices`` has the texts
for it, and ``metadata["question"]`` the question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import question_files
from llava_teamlora.evaluation.benchmarks.choices import LETTERS, ask, guesses
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import EVAL_ROOT, expect_object, read_json_object, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

FOLDER = "seed_bench"
_TRUTH, _QUESTIONS = "SEED-Bench.json", "llava-seed-bench.jsonl"
_PICTURES = {"image": "SEED-Bench-image", "video": "SEED-Bench-video-image"}
_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
_SOURCE = "https://github.com/AILab-CVC/SEED-Bench/blob/main/DATASET.md"


@dataclass(frozen=True)
class Question:
    """One of ``SEED-Bench.json``.

    Attributes:
        where: its place, for messages.
        identity: ``question_id``: a number, or ``v`` and a number for a video.
        text: the question alone.
        choices: four texts.
        answer: the letter.
        kind: ``image`` or ``video``.
        source: ``data_id``, the picture or video it is about.
        dimension: number and name of the question type.
    """

    where: str
    identity: str
    text: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    source: str
    dimension: tuple[int, str]

    @property
    def picture(self) -> str:
        """Relative to the benchmark's folder, as LLaVA's question file names it."""
        name = self.source if self.kind == "image" else f"{self.dimension[0]}_{self.identity}.png"
        return f"{_PICTURES[self.kind]}/{name}"


def read_questions(path: Path) -> list[Question]:
    """All of ``SEED-Bench.json``, in its order.

    Raises:
        UserError: missing or broken, or an id stands twice.
    """
    content = read_json_object(path)
    names = {number: name for name, number in take(content, "question_type", dict, str(path)).items()}
    found = []
    for index, row in enumerate(take(content, "questions", list, str(path))):
        where = f"{path}, questions[{index}]"
        found.append(_question(expect_object(row, where), names, where))
    question_files.refuse_repeats("question_id", ((question.where, question.identity) for question in found))
    return found


def _question(row: dict[str, Any], names: dict[Any, str], where: str) -> Question:
    number, kind, answer = (take(row, name, kinds, where) for name, kinds in _TYPED.items())
    if number not in names:
        raise UserError(f"{where}: question_type_id {number} has no name in 'question_type' ({names})")
    if kind not in _PICTURES:
        raise UserError(f"{where}: 'data_type' must be image or video, found {kind!r}")
    if answer not in tuple("ABCD"):
        raise UserError(f"{where}: 'answer' must be A, B, C or D, found {answer!r:.80}")
    return Question(
        where,
        str(take(row, "question_id", (str, int), where)),
        take(row, "question", str, where),
        # An option that is a number in the file is asked as it is written.
        tuple(str(take(row, name, (str, int, float), where)) for name in _CHOICES),
        answer,
        kind,
        take(row, "data_id", str, where),
        (number, names[number]),
    )


_TYPED: dict[str, Any] = {"question_type_id": int, "data_type": str, "answer": str}


class Seed(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    metric = "accuracy"
    version = 1
    max_new_tokens = 128
    groups: tuple[str, ...] = (
        "Scene Understanding",
        "Instance Identity",
        "Instance Attributes",
        "Instance Location",
        "Instances Counting",
        "Spatial Relation",
        "Instance Interaction",
        "Visual Reasoning",
        "Text Understanding",
        "Action Recognition",
        "Action Prediction",
        "Procedure Understanding",
    )

    def __init__(self, name: str, summary: str, kinds: Sequence[str]) -> None:
        """Which of ``image`` and ``video`` are asked about."""
        self.name, self.summary, self._kinds = name, summary, kinds

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """In the order of ``SEED-Bench.json``; the key is the id as text."""
        folder = (data_root or EVAL_ROOT) / FOLDER
        truth = [question for question in read_questions(folder / _TRUTH) if question.kind in self._kinds]
        asked = self._read_asked(folder / _QUESTIONS, truth)
        return [self._sample(question, asked[question.identity], folder) for question in truth]

    def _read_asked(self, path: Path, truth: Sequence[Question]) -> dict[str, question_files.Question]:
        """LLaVA's rows by id.

        Raises:
            UserError: the file is missing or broken, or of other questions.
        """
        rows = question_files.read_question_file(path, self.name)
        question_files.refuse_repeats("question_id", ((row.where, str(row.question_id)) for row in rows))
        asked = {str(row.question_id): row for row in rows}
        missing = [question for question in truth if question.identity not in asked]
        if missing:
            hint = "; seed_image asks only about pictures" if all(q.kind == "video" for q in missing) else ""
            raise UserError(
                f"{path}: lacks {len(missing)} of {len(truth)} questions of {_TRUTH} (question_id "
                f"{missing[0].identity} is the first); are they of one edition?{hint}"
            )
        return asked

    def _sample(self, question: Question, row: question_files.Question, folder: Path) -> Sample:
        number, name = question.dimension
        return Sample(
            key=question.identity,
            question_id=row.question_id,
            prompt=row.text,
            targets=(question.answer,),
            image=folder / row.image,
            group=name,
            cluster=question.source,
            choices=question.choices,
            metadata={"question": question.text, "data_type": question.kind, "question_type_id": number},
        )

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for the letter and nothing else."""
        letter = text if text in LETTERS[: len(sample.choices)] and len(text) == 1 else ""
        return Verdict(letter, float(letter in sample.targets), {"unparsed": float(not letter)})

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Accuracy over all, per question type, and of pictures and videos; standard errors clustered by source."""
        types = {(sample.metadata["question_type_id"], sample.group) for sample in samples}
        scores = grouped_mean(samples, verdicts, [name for _, name in sorted(types)])
        return Scores(scores.total, scores.groups, dict(_by_kind(samples, verdicts)) | scores.extra)

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Always A, and an option drawn by the question's id."""
        return guesses(samples)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Truth, LLaVA's questions, pictures, and frames where videos are asked about."""
        folder = (data_root or EVAL_ROOT) / FOLDER
        frames = "LLaVA's extract_video_frames.py (in its eval.zip) over the videos"
        pictures = {"image": ("the pictures", _SOURCE), "video": ("the middle frames of the videos", frames)}
        return [
            Need(folder / _TRUTH, "questions, options and answers", _SOURCE),
            Need(folder / _QUESTIONS, "LLaVA's prompts", question_files.EVAL_ZIP, built=True),
            *(Need(folder / _PICTURES[kind], *pictures[kind], pictures=True) for kind in self._kinds),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question file, of pictures and videos both."""
        folder = (data_root or EVAL_ROOT) / FOLDER
        return {folder / _QUESTIONS: [_llava_row(question) for question in read_questions(folder / _TRUTH)]}

    def export(self, samples: Sequence[Sample], texts: Sequence[str], out: Path) -> list[Path]:
        """What SEED-Bench's leaderboard takes: JSON lines of question_id and prediction."""
        rows = ({"question_id": sample.key, "prediction": text} for sample, text in zip(samples, texts, strict=True))
        path = out / f"{self.name}.jsonl"
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        return [path]


def _llava_row(question: Question) -> dict[str, Any]:
    return {
        "image": question.picture,
        "text": ask(question.text, question.choices),
        "category": question.dimension[1],
        "question_id": int(question.identity) if question.identity.isdecimal() else question.identity,
    }


def _by_kind(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Iterator[tuple[str, Score]]:
    for kind in _PICTURES:
        rows = [(s, v) for s, v in zip(samples, verdicts, strict=True) if s.metadata["data_type"] == kind]
        if rows:
            yield f"seed_{kind}", mean_score([sample for sample, _ in rows], [verdict for _, verdict in rows])


SEED = Seed("seed", "19242 questions on pictures and video frames, four options each", ("image", "video"))
SEED_IMAGE = Seed("seed_image", "seed's 14233 questions on pictures", ("image",))
