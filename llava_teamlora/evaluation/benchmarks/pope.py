"""POPE: is there such a thing in the picture? 8910 questions about 500 COCO photographs, in three categories.

Data: LLaVA's ``pope/llava_pope_test.jsonl``, the official ``pope/coco/coco_pope_{random,popular,adversarial}.json``
(JSON lines, as they were when LLaVA took them: 2910 random questions, since then 3000) and COCO's ``pope/val2014``.
Prompt: the question, in some of which stands "imange", and LLaVA's request for one word.
Metric: POPE's ``evaluate.py`` and LLaVA's ``eval_pope.py``, which agree: F1 of "yes" per category; LLaVA's figure is
the mean of the three. An answer is a no if its first sentence has one of the words No, no and not; anything else is a
yes, so "NO", "no!" and an empty answer are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.question_files import EVAL_ZIP, SHORT_ANSWER
from llava_teamlora.evaluation.jackknife import jackknife_stderr
from llava_teamlora.evaluation.reading import data_folder, read_json_lines, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

CATEGORIES = ("random", "popular", "adversarial")

_FIRST_ID = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
"""What LLaVA added to the official question ids, in the order of its file."""

_SOURCE = (
    "https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco "
    "(LLaVA's edition, 2910 random questions; newer ones have 3000)"
)


@dataclass(frozen=True)
class _Truth:
    """One line of an official file.

    Attributes:
        row: its place there, from 0.
        question_id: its id there.
        image: the photograph's file name.
        question: as it stands there.
        label: ``yes`` or ``no``.
    """

    row: int
    question_id: int
    image: str
    question: str
    label: str


class Pope(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "pope"
    summary = "8910 questions whether a thing is in the picture; random, popular and adversarial"
    metric = "mean F1"
    version = 1
    max_new_tokens = 128
    groups = CATEGORIES
    headline = (*CATEGORIES, "accuracy", "precision", "recall", "yes ratio")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """LLaVA's rows in their order. A key is ``<category>/<photograph>/<question>``."""
        folder = _folder(data_root)
        questions = folder / "llava_pope_test.jsonl"
        truths = {name: _read_truths(_truth_path(folder, name)) for name in CATEGORIES}
        asked: dict[str, list[tuple[str, str]]] = {name: [] for name in CATEGORIES}
        samples = []
        for where, row in read_json_lines(questions):
            category, image = take(row, "category", str, where), take(row, "image", str, where)
            if category not in truths:
                raise UserError(f"{where}: 'category' {category!r} is none of {', '.join(CATEGORIES)}")
            prompt = take(row, "text", str, where)
            identity = (image, _normal(prompt.split("\n")[0]))
            asked[category].append(identity)
            truth = truths[category].get(identity)
            if truth is None:
                continue
            samples.append(
                Sample(
                    key=f"{category}/{image}/{identity[1]}",
                    question_id=take(row, "question_id", (int, str), where),
                    prompt=prompt,
                    targets=(truth.label,),
                    image=folder / "val2014" / image,
                    group=category,
                    cluster=image,
                    metadata={"question": truth.question, "row": truth.row},
                )
            )
        for category, identities in asked.items():
            _refuse_mismatch(questions, _truth_path(folder, category), category, identities, truths[category])
        return samples

    def parse(self, text: str) -> str:
        """``yes`` or ``no``, as the module's text says."""
        words = text.split(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "not", "no"} & set(words) else "yes"

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for the right one of yes and no."""
        parsed = self.parse(text)
        return Verdict(parsed, float(parsed in sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """F1 of each category and their mean; likewise accuracy, precision, recall and the share of answers "yes".

        Standard errors are a jackknife over photographs: F1 is a ratio of sums, and the same 500 photographs (and their
        questions answered yes) stand in all three categories, which a mean over categories must not take for new ones.
        Of a part of the benchmark, a category counts once a question is answered whose truth is yes.

        Raises:
            UserError: there is no such question.
        """
        photographs: dict[str, list[int]] = defaultdict(lambda: [0] * (len(CATEGORIES) * len(_OUTCOMES)))
        for sample, verdict in zip(samples, verdicts, strict=True):
            outcome = _OUTCOMES.index((sample.targets[0], verdict.parsed))
            photographs[sample.cluster][CATEGORIES.index(sample.group) * len(_OUTCOMES) + outcome] += 1
        counts = list(photographs.values())
        found = [name for name in CATEGORIES if any(s.group == name and "yes" in s.targets for s in samples)]
        if not found:
            raise UserError(
                "pope: F1 needs a question whose truth is yes, and none was answered; answer more (--limit)"
            )
        total = _score(counts, _f1, found)
        groups = {name: _score(counts, _f1, [name]) for name in found}
        means = {name: _score(counts, measure, found) for name, measure in _FURTHER.items()}
        each = {f"{c} {name}": _score(counts, measure, [c]) for c in found for name, measure in _FURTHER.items()}
        return Scores(total, groups, {**means, **each})

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Always yes (F1 about 67, as half of the truths are yes) and always no (F1 0)."""
        return {
            f"always {word}": Baseline(f"{word!r} to every question", {sample.key: word for sample in samples})
            for word in ("yes", "no")
        }

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """LLaVA's questions, the official truths, COCO's photographs."""
        folder = _folder(data_root)
        coco = "http://images.cocodataset.org/zips/val2014.zip"
        truths = tuple(Need(_truth_path(folder, name), f"the truth of {name}", _SOURCE) for name in CATEGORIES)
        return [
            Need(folder / "llava_pope_test.jsonl", "LLaVA's questions", EVAL_ZIP, made_from=truths),
            *truths,
            Need(folder / "val2014", "COCO's photographs", coco, pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """``llava_pope_test.jsonl`` of the official files: of LLaVA's edition, line by line the published one."""
        folder = _folder(data_root)
        rows = [
            {
                "question_id": first + truth.question_id,
                "image": truth.image,
                "text": truth.question + SHORT_ANSWER,
                "category": category,
            }
            for category, first in _FIRST_ID.items()
            for truth in _read_truths(_truth_path(folder, category)).values()
        ]
        return {folder / "llava_pope_test.jsonl": rows}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """``coco_pope_<category>_answers.json`` for ``evaluate.py``: JSON lines of question and answer.

        They are in the order of the official file, as the tool goes by that alone.
        """
        written = []
        for category in CATEGORIES:
            rows = [(s.metadata, text) for s, text in zip(samples, texts, strict=True) if s.group == category]
            rows.sort(key=lambda row: row[0]["row"])
            lines = [json.dumps({"question": about["question"], "answer": text}) + "\n" for about, text in rows]
            written.append(out / f"coco_pope_{category}_answers.json")
            write_atomically(written[-1], "".join(lines))
        return written


def _folder(data_root: Path | None) -> Path:
    return data_folder(data_root, "pope")


def _truth_path(folder: Path, category: str) -> Path:
    return folder / "coco" / f"coco_pope_{category}.json"


def _normal(question: str) -> str:
    """Older editions have "imange" where newer ones are mended."""
    return " ".join(question.split()).replace("imange", "image")


def _read_truths(path: Path) -> dict[tuple[str, str], _Truth]:
    """By photograph and question."""
    found = {}
    for where, row in read_json_lines(path):
        image, question = take(row, "image", str, where), take(row, "text", str, where)
        label = take(row, "label", str, where)
        if label not in ("yes", "no"):
            raise UserError(f"{where}: 'label' must be 'yes' or 'no', found {label!r:.80}")
        identity = (image, _normal(question))
        if identity in found:
            raise UserError(f"{where}: asks {question!r} about {image} again")
        found[identity] = _Truth(len(found), take(row, "question_id", int, where), image, question, label)
    return found


def _refuse_mismatch(
    questions: Path,
    truth_path: Path,
    category: str,
    asked: Sequence[tuple[str, str]],
    truths: dict[tuple[str, str], _Truth],
) -> None:
    known = set(asked)
    problems = (
        ([key for key in asked if key not in truths], "have no truth"),
        ([key for key in truths if key not in known], "of the truths are not asked"),
    )
    found = [f"{len(keys)} {what} (first: {' '.join(keys[0])})" for keys, what in problems if keys]
    if len(known) < len(asked):
        found.append(f"{len(asked) - len(known)} are asked twice")
    if found:
        raise UserError(
            f"{questions} has {len(asked)} {category} questions, {truth_path} has {len(truths)}: {', '.join(found)}. "
            f"They are of different editions; take {_SOURCE}, or make the questions anew of these truths: "
            "llava-teamlora evaluate build pope"
        )


_OUTCOMES = (("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no"))
"""(truth, answer), counted in this order: true and false positives, true and false negatives."""

_Measure = Callable[[int, int, int, int], float]


def _f1(tp: int, fp: int, tn: int, fn: int) -> float:
    # Differs from evaluate.py: 2PR / (P + R) without its division by zero for a model that never rightly says yes.
    return 2 * tp / (2 * tp + fp + fn)


def _accuracy(tp: int, fp: int, tn: int, fn: int) -> float:
    return (tp + tn) / (tp + fp + tn + fn)


def _precision(tp: int, fp: int, tn: int, fn: int) -> float:
    # Differs from evaluate.py, which stops at a division by zero for a model that never says yes.
    return tp / (tp + fp) if tp + fp else 0.0


def _recall(tp: int, fp: int, tn: int, fn: int) -> float:
    return tp / (tp + fn)


def _yes_ratio(tp: int, fp: int, tn: int, fn: int) -> float:
    return (tp + fp) / (tp + fp + tn + fn)


_FURTHER: dict[str, _Measure] = {
    "accuracy": _accuracy,
    "precision": _precision,
    "recall": _recall,
    "yes ratio": _yes_ratio,
}


def _score(photographs: Sequence[Sequence[int]], measure: _Measure, categories: Sequence[str]) -> Score:
    """Mean over categories of a measure, from the counts of all outcomes in all categories a photograph."""
    size = len(_OUTCOMES)
    starts = [CATEGORIES.index(category) * size for category in categories]

    def statistic(sums: Sequence[float]) -> float:
        return sum(measure(*map(int, sums[start : start + size])) for start in starts) / len(starts)

    answered = [sum(sum(counts[start : start + size]) for start in starts) for counts in photographs]
    own = [counts for counts, n in zip(photographs, answered, strict=True) if n]
    sums = [sum(column) for column in zip(*own, strict=True)]
    return Score(statistic(sums), jackknife_stderr(own, statistic), sum(answered))
