"""SEED-Bench (the first): multiple choice about 14,233 questions on pictures and 5,009 on videos.

Data: ``SEED-Bench.json``, and LLaVA's ``llava-seed-bench.jsonl``, whose prompts and pictures are used (``evaluate
build`` makes it from the former). A video is shown as one frame from its middle, as LLaVA's
``extract_video_frames.py`` writes it: ``SEED-Bench-video-image/<type>_<id>.png``. One id, 49914, is that of two
questions; the second of an id has the key ``<id>#2``. Prompt: the question, the option lines, the sentence that asks
for a letter. Metric: as LLaVA's ``convert_seed_for_submission.py``, the answer is the
letter and nothing else (``A.`` is wrong, and ``unparsed``). The total is over all questions, which is what papers call
SEED; ``seed_image`` and ``seed_video`` stand beside it. The benchmark ``seed_image`` asks only about pictures.

SEED-Bench's own tool does not read letters: it ranks the options' texts by their likelihood after the question alone,
without option lines (summed over tokens for InstructBLIP, averaged for LLaVA-1.5). ``Sample.choices`` has the texts
for it, and ``metadata["question"]`` the question.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import question_files
from llava_teamlora.evaluation.choices import LETTERS, ask, context, guesses
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import data_folder, expect_object, read_json_object, take
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
        occurrence: of that id, from 1.
        text: the question alone.
        choices: four texts.
        answer: the letter.
        kind: ``image`` or ``video``.
        source: ``data_id``, the picture or video it is about.
        dimension: number and name of the question type.
    """

    where: str
    identity: str
    occurrence: int
    text: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    source: str
    dimension: tuple[int, str]

    @property
    def key(self) -> str:
        """The id, numbered where it is not the first of its kind."""
        return self.identity if self.occurrence == 1 else f"{self.identity}#{self.occurrence}"

    @property
    def picture(self) -> str:
        """Relative to the benchmark's folder, as LLaVA's question file names it."""
        name = self.source if self.kind == "image" else f"{self.dimension[0]}_{self.identity}.png"
        return f"{_PICTURES[self.kind]}/{name}"


def read_questions(path: Path) -> list[Question]:
    """All of ``SEED-Bench.json``, in its order.

    Raises:
        UserError: missing or broken.
    """
    content = read_json_object(path)
    types = take(content, "question_type", dict, str(path))
    names = {take(types, name, int, f"{path}, question_type"): name for name in types}
    seen: Counter[str] = Counter()
    found = []
    for index, row in enumerate(take(content, "questions", list, str(path))):
        where = f"{path}, questions[{index}]"
        identity = str(take(expect_object(row, where), "question_id", (str, int), where))
        seen[identity] += 1
        found.append(_question(row, identity, seen[identity], names, where))
    return found


def _question(row: dict[str, Any], identity: str, occurrence: int, names: dict[int, str], where: str) -> Question:
    number, kind, answer = (take(row, name, kinds, where) for name, kinds in _TYPED.items())
    if number not in names:
        raise UserError(f"{where}: question_type_id {number} has no name in 'question_type' ({names})")
    if kind not in _PICTURES:
        raise UserError(f"{where}: 'data_type' must be image or video, found {kind!r}")
    if answer not in tuple("ABCD"):
        raise UserError(f"{where}: 'answer' must be A, B, C or D, found {answer!r:.80}")
    return Question(
        where,
        identity,
        occurrence,
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
    headline = ("seed_image", "seed_video", "unparsed")

    def __init__(self, name: str, summary: str, kinds: Sequence[str]) -> None:
        """Which of ``image`` and ``video`` are asked about."""
        self.name, self.summary, self._kinds = name, summary, kinds

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """In the order of ``SEED-Bench.json``; the key is the id as text."""
        folder = data_folder(data_root, FOLDER)
        rows = _Asked(folder / _QUESTIONS, self.name)
        truth = read_questions(folder / _TRUTH)
        asked = [question for question in truth if question.kind in self._kinds]
        pairs = [(question, rows.take(question)) for question in asked]
        rows.check(asked, {question.identity for question in truth if question.kind not in self._kinds})
        return [self._sample(question, row, folder) for question, row in pairs if row]

    def _sample(self, question: Question, row: question_files.Question, folder: Path) -> Sample:
        number, name = question.dimension
        return Sample(
            key=question.key,
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
        folder = data_folder(data_root, FOLDER)
        frames = "LLaVA's extract_video_frames.py (in its eval.zip) over the videos"
        pictures = {"image": ("the pictures", _SOURCE), "video": ("the middle frames of the videos", frames)}
        truth = Need(folder / _TRUTH, "questions, options and answers", _SOURCE)
        return [
            truth,
            Need(folder / _QUESTIONS, "LLaVA's prompts", question_files.EVAL_ZIP, made_from=(truth,)),
            *(Need(folder / _PICTURES[kind], *pictures[kind], pictures=True) for kind in self._kinds),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question file, of pictures and videos both."""
        folder = data_folder(data_root, FOLDER)
        return {folder / _QUESTIONS: [_llava_row(question) for question in read_questions(folder / _TRUTH)]}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """What SEED-Bench's leaderboard takes: JSON lines of question_id and prediction."""
        rows = [
            {"question_id": str(sample.question_id), "prediction": text}
            for sample, text in zip(samples, texts, strict=True)
        ]
        path = out / f"{self.name}.jsonl"
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        return [path]


class _Asked:
    """LLaVA's question file, whose rows are given out to the questions they ask."""

    def __init__(self, path: Path, benchmark: str) -> None:
        self._path, self._remedy = path, f"make it anew: llava-teamlora evaluate build {benchmark}"
        self._rows: dict[str, list[question_files.Question]] = defaultdict(list)
        for row in question_files.read_question_file(path, benchmark):
            self._rows[str(row.question_id)].append(row)
        self._missing: list[Question] = []

    def take(self, question: Question) -> question_files.Question | None:
        """The first row that is left of the question's id and asks it; None, which is remembered, if no row is left.

        Raises:
            UserError: what is left asks something else.
        """
        left = self._rows[question.identity]
        if not left:
            self._missing.append(question)
            return None
        asking = [row for row in left if context(row.text, question.text, question.choices) == ""]
        if not asking:
            raise UserError(
                f"{left[0].where}: 'text' is {left[0].text!r:.200}, but by {question.where} it must ask "
                f"{ask(question.text, question.choices, '')!r:.200}; are the files of one edition? Else {self._remedy}"
            )
        left.remove(asking[0])
        return asking[0]

    def check(self, truth: Sequence[Question], let_be: set[str]) -> None:
        """Raise UserError if rows were lacking, or are left whose ids are not those to be let be."""
        if self._missing:
            hint = "; seed_image asks only about pictures" if all(q.kind == "video" for q in self._missing) else ""
            raise UserError(
                f"{self._path}: lacks {len(self._missing)} of {len(truth)} questions of {_TRUTH} (question_id "
                f"{self._missing[0].identity} is the first); are they of one edition?{hint}; else {self._remedy}"
            )
        left = [row for identity, rows in self._rows.items() for row in rows if identity not in let_be]
        if left:
            raise UserError(
                f"{left[0].where}: {_TRUTH} has no question of its own for question_id {left[0].question_id!r} here "
                f"({len(left)} such rows); are they of one edition? Else {self._remedy}"
            )


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
