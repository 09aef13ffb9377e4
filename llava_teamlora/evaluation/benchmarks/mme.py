"""MME: 2374 yes/no questions about 1187 pictures, two a picture, in 14 subtasks.

Data: LLaVA's ``MME/llava_mme.jsonl`` and the official ``MME/MME_Benchmark_release_version/<subtask>/`` (see
``mme_files.py``). Prompt: the question less the benchmark's own "Please answer yes or no.", and LLaVA's request for one
word.
Metric: the release's ``eval_tool/calculation.py``. A subtask's points are 100 acc + 100 acc+: the share of questions
answered rightly and the share of pictures with both answered rightly; perception is the sum over ten subtasks (2000 at
most, LLaVA's figure), cognition over four (800). An answer is read by its first four letters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.mme_files import (
    COGNITION,
    PERCEPTION,
    RELEASE,
    SOURCE,
    SUBTASKS,
    bare,
    folders,
    picture_names,
    read_truths,
)
from llava_teamlora.evaluation.benchmarks.question_files import EVAL_ZIP, SHORT_ANSWER
from llava_teamlora.evaluation.jackknife import jackknife_stderr
from llava_teamlora.evaluation.metrics import clustered_stderr
from llava_teamlora.evaluation.reading import data_folder, read_json_lines, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

_PUBLISHED_ORDER = tuple(
    "code_reasoning artwork celebrity numerical_calculation text_translation count color commonsense_reasoning "
    "position OCR landmark scene existence posters".split()
)
"""Of the subtasks in LLaVA's file."""

_ONE_LINE = str.maketrans("\t\r\n", "   ")


class Mme(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "mme"
    summary = "2374 yes/no questions about 1187 pictures in 14 subtasks; perception of 2000, cognition of 800"
    metric = "perception"
    version = 1
    max_new_tokens = 128
    groups = SUBTASKS
    headline = ("cognition", "perception acc", "cognition acc", "other")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """Subtasks in the official tool's order, which has perception first, and within each LLaVA's rows in theirs.

        A key is ``<subtask>/<picture>/<bare question>``, whatever the release's layout.
        """
        questions, release = _paths(data_root)
        truths = read_truths(release)
        asked, unknown, twice = set(), [], []
        samples = []
        for where, row in read_json_lines(questions):
            subtask, picture = _subtask(row, where), Path(take(row, "image", str, where)).name
            prompt = take(row, "text", str, where)
            identity = (subtask, Path(picture).stem, bare(prompt.split("\n")[0]))
            if identity not in truths:
                unknown.append(identity)
                continue
            if identity in asked:
                twice.append(identity)
            asked.add(identity)
            truth = truths[identity]
            samples.append(
                Sample(
                    key=f"{subtask}/{picture}/{identity[2]}",
                    question_id=take(row, "question_id", (str, int), where),
                    prompt=prompt,
                    targets=(truth.answer,),
                    image=folders(release, subtask)[0] / picture,
                    group=subtask,
                    cluster=f"{subtask}/{picture}",
                    metadata={"question": truth.question},
                )
            )
        _refuse_mismatch(questions, release, unknown, twice, [key for key in truths if key not in asked])
        # Differs from LLaVA, which goes by its file: that begins with cognition, of which a limited run has no total.
        return sorted(samples, key=lambda sample: self.groups.index(sample.group))

    def parse(self, text: str) -> str:
        """``yes``, ``no`` or ``other``: "Not sure" is a no, "It is no" is other."""
        start = text.lower()[:4]
        return "yes" if "yes" in start else "no" if "no" in start else "other"

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for the right one of yes and no."""
        parsed = self.parse(text)
        return Verdict(parsed, float(parsed in sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Perception; the subtasks, 200 at most each; cognition, acc and acc+ of both, answers neither yes nor no.

        Of a part of the benchmark, a sum is over the subtasks that have answers, and so is its maximum; a picture of
        which one question was answered counts towards acc+ by that one.

        Raises:
            UserError: no perception question was answered.
        """
        rows: dict[str, list[tuple[str, float]]] = {name: [] for name in self.groups}
        for sample, verdict in zip(samples, verdicts, strict=True):
            rows[sample.group].append((sample.cluster, verdict.score))
        points = {name: _score(found, _points, 200.0) for name, found in rows.items() if found}
        sums, extra = {}, {}
        for kind, names in (("perception", PERCEPTION), ("cognition", COGNITION)):
            answered = [name for name in names if name in points]
            if not answered:
                continue
            sums[kind] = _mean([points[name] for name in answered], 200.0 * len(answered))
            for measure, of in (("acc", _acc), ("acc+", _acc_plus)):
                extra[f"{kind} {measure}"] = _mean([_score(rows[name], of, 100.0) for name in answered], 100.0)
        if "perception" not in sums:
            raise UserError(
                "mme: the score is perception's, and none of its questions was answered; answer one of its subtasks "
                f"({', '.join(PERCEPTION)})"
            )
        total = sums.pop("perception")
        return Scores(total, points, {**sums, **extra, "other": _share_of_other(samples, verdicts)})

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Always yes: right once a picture, which is 50 a subtask, 500 of perception's 2000."""
        return {"always yes": Baseline("'yes' to every question", {sample.key: "yes" for sample in samples})}

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """LLaVA's questions and the official release."""
        questions, release = _paths(data_root)
        official = Need(release, "the official release: truths and pictures", SOURCE)
        return [Need(questions, "LLaVA's questions", EVAL_ZIP, made_from=(official,)), official]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """``llava_mme.jsonl`` of the official release: LLaVA's rows, subtask by subtask as published, pairs as there.

        Within a subtask pictures are sorted by name.
        """
        # Differs from the published file: its pictures are in the order in which some disk listed them, which cannot be
        # told from the release. Answers are joined by their question, so scores do not depend on it.
        questions, release = _paths(data_root)
        truths = read_truths(release)
        rows = []
        for subtask in _PUBLISHED_ORDER:
            names = picture_names(folders(release, subtask)[0])
            for identity in (key for key in truths if key[0] == subtask):
                if identity[1] not in names:
                    raise UserError(f"{folders(release, subtask)[0]}: has no picture {identity[1]}.jpg or .png")
                image = (folders(release, subtask)[0] / names[identity[1]]).relative_to(release).as_posix()
                text = identity[2] + SHORT_ANSWER
                rows.append({"question_id": image, "image": image, "text": text, "category": subtask})
        return {questions: rows}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """``<subtask>.txt`` for ``calculation.py --results_dir``: picture, question, truth, answer, the pair adjacent.

        A tab or line break inside an answer becomes a space, which changes no score.
        """
        pairs: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in self.groups}
        for sample, text in zip(samples, texts, strict=True):
            fields = Path(sample.cluster).name, sample.metadata["question"], sample.targets[0].capitalize()
            pairs[sample.group][sample.cluster].append("\t".join((*fields, text.translate(_ONE_LINE))) + "\n")
        written = []
        for name, pictures in pairs.items():
            written.append(out / f"{name}.txt")
            write_atomically(written[-1], "".join(line for lines in pictures.values() for line in lines))
        return written


def _paths(data_root: Path | None) -> tuple[Path, Path]:
    """LLaVA's question file and the official release."""
    folder = data_folder(data_root, "MME")
    return folder / "llava_mme.jsonl", folder / RELEASE


def _subtask(row: Mapping[str, Any], where: str) -> str:
    subtask = take(row, "category", str, where)
    if subtask not in Mme.groups:
        raise UserError(f"{where}: 'category' {subtask!r} is no subtask of MME ({', '.join(Mme.groups)})")
    return subtask


def _refuse_mismatch(
    questions: Path,
    release: Path,
    unknown: Sequence[tuple[str, ...]],
    twice: Sequence[tuple[str, ...]],
    unasked: Sequence[tuple[str, ...]],
) -> None:
    problems = (
        (unknown, f"have no truth under {release}"),
        (twice, "stand there twice"),
        (unasked, f"of {release} are not in it"),
    )
    found = [f"{len(keys)} questions {what} (first: {' | '.join(keys[0])})" for keys, what in problems if keys]
    if found:
        raise UserError(
            f"{questions}: {'; '.join(found)}; take both files whole and of one edition, or make this one anew: "
            "llava-teamlora evaluate build mme"
        )


_Measure = Callable[[Sequence[float]], float]


def _acc(sums: Sequence[float]) -> float:
    questions, right, _, _ = sums
    return right / questions


def _acc_plus(sums: Sequence[float]) -> float:
    _, _, pictures, both = sums
    return both / pictures


def _points(sums: Sequence[float]) -> float:
    return (_acc(sums) + _acc_plus(sums)) / 2


def _score(rows: Sequence[tuple[str, float]], measure: _Measure, maximum: float) -> Score:
    """A measure of one subtask, from (picture, 1 for a right answer) a question.

    The standard error is a jackknife over pictures, as the two questions of one are answered alike. Where every picture
    has two it is s / sqrt(P) of the P pictures' own points.
    """
    pictures: dict[str, list[float]] = defaultdict(list)
    for picture, score in rows:
        pictures[picture].append(score)
    counts = [(len(scores), sum(scores), 1, float(all(scores))) for scores in pictures.values()]
    sums = [sum(column) for column in zip(*counts, strict=True)]
    return Score(measure(sums), jackknife_stderr(counts, measure), len(rows), maximum)


def _mean(scores: Sequence[Score], maximum: float) -> Score:
    """Of S subtasks. They are independent, so variances add: the standard error is sqrt(sum of squares) / S.

    (Ten photographs occur in two of the perception subtasks each; that is neglected.)
    """
    count = len(scores)
    known = [score.stderr for score in scores if score.stderr is not None]
    stderr = math.sqrt(sum(error * error for error in known)) / count if len(known) == count else None
    return Score(sum(score.value for score in scores) / count, stderr, sum(score.n for score in scores), maximum)


def _share_of_other(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Score:
    values = [float(verdict.parsed == "other") for verdict in verdicts]
    return Score(sum(values) / len(values), clustered_stderr(values, [s.cluster for s in samples]), len(values))
