"""Answers file -> ``scores.json`` and a log of every row, or the official tool's file. Never imports torch.

In: a benchmark and an answers file, ours or LLaVA's. Out: ``scores.json`` (total and groups with standard errors,
the baselines on the same rows, what was scored on which data, the manifest of the answers) and beside it
``scores.rows.jsonl``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import data_sha256, line_of, read_answers, write_json
from llava_teamlora.evaluation.checking import load_samples
from llava_teamlora.evaluation.companions import MANIFEST, read_manifest
from llava_teamlora.evaluation.judging.provenance import ungraded, untied
from llava_teamlora.evaluation.score_files import refuse_name_of_lines
from llava_teamlora.evaluation.types import Benchmark, Prediction, Sample, Scores, Verdict
from llava_teamlora.files import beside, write_atomically

ROWS = ".rows.jsonl"
_FORMAT = 3


@dataclass(frozen=True)
class Answered:
    """A benchmark's questions with their answers; nothing is missing, double or of another edition.

    Attributes:
        pairs: each question with its answer, in the benchmark's order.
        questions: how many the whole benchmark has.
        data_sha256: of the benchmark's data.
        manifest: what made the answers; None where no ``manifest.json`` lies beside them.
    """

    pairs: list[tuple[Sample, Prediction]]
    questions: int
    data_sha256: str
    manifest: dict[str, Any] | None


def load_answered(
    benchmark: Benchmark,
    answers: Path,
    data_root: Path | None = None,
    *,
    partial: bool = False,
    limit: int | None = None,
) -> Answered:
    """Load a benchmark and put an answers file's answers to its questions.

    Args:
        benchmark: what was answered.
        answers: JSON lines; a ``manifest.json`` beside it says what made them.
        data_root: see ``Benchmark.load``.
        partial: let answers be missing.
        limit: take only the first so many questions, and let other answers be; None for all.

    Raises:
        UserError: data is missing; or see ``answers.read_answers``; or the answers are to another edition of the data.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} must be at least 1")
    samples = load_samples(benchmark, data_root)
    pairs = read_answers(answers, samples, limit=limit, partial=partial)
    found = Answered(pairs, len(samples), data_sha256(samples), read_manifest(answers))
    _check_edition(benchmark, found, answers.parent / MANIFEST)
    return found


def _check_edition(benchmark: Benchmark, found: Answered, path: Path) -> None:
    """Raise UserError if the manifest says that the answers are to other data."""
    made = (found.manifest or {}).get("benchmark")
    if not isinstance(made, dict) or made.get("data_sha256") in (None, found.data_sha256):
        return
    if made.get("name") != benchmark.name:
        raise UserError(f"{path}: the answers beside it are to {made.get('name')!r}, not to {benchmark.name!r}")
    raise UserError(
        f"{path}: the answers beside it were made on another edition of {benchmark.name}'s data (sha256 "
        f"{made['data_sha256']!s:.12} there, {found.data_sha256:.12} here: its questions or truths differ); "
        "give --data_root of the data they were made on, or predict again"
    )


def score(
    benchmark: Benchmark,
    answers: Path,
    out: Path,
    *,
    partial: bool = False,
    limit: int | None = None,
    data_root: Path | None = None,
    grades: Path | None = None,
) -> dict[str, Any]:
    """Score an answers file.

    Args:
        benchmark: what was answered.
        answers: JSON lines; a ``manifest.json`` beside it is copied into the scores.
        out: where ``scores.json`` goes; the rows go beside it as ``*.rows.jsonl``.
        partial: score what is there, of a judged benchmark what is graded; the scores' name then says so.
        limit: score only the first so many questions, and let other answers be; None for all.
        data_root: see ``Benchmark.load``.
        grades: a judge's grades, where one is needed.

    Returns:
        What was written to ``out``.

    Raises:
        UserError: see :func:`load_answered`; or only a server or a judge can score this benchmark; or ``out`` would
            take the place of what is read, or is named ``.jsonl``.
    """
    _spare(out, [answers, *([grades] if grades else [])])
    refuse_name_of_lines(out)
    benchmark = _scorable(benchmark, grades)
    found = load_answered(benchmark, answers, data_root, partial=partial, limit=limit)
    if partial and benchmark.graded is not None:
        found = _only_graded(found, benchmark.graded, answers, grades)
    samples = [sample for sample, _ in found.pairs]
    verdicts = [benchmark.judge(sample, prediction.text) for sample, prediction in found.pairs]
    content = {
        **_heading(benchmark, found),
        **_plain(benchmark.aggregate(samples, verdicts)),
        "baselines": _baselines(benchmark, samples, data_root),
        **_sources(found, answers, data_root, grades),
    }
    write_atomically(rows_path(out), map(line_of, map(_row, found.pairs, verdicts)))
    write_json(out, content)
    return content


def _only_graded(found: Answered, graded: Collection[str], answers: Path, grades: Path | None) -> Answered:
    """Leave out the answers without a grade.

    Raises:
        UserError: none has one.
    """
    pairs = [pair for pair in found.pairs if pair[0].key in graded]
    if not pairs:
        raise UserError(f"{grades}: grades none of the {len(found.pairs)} answers in {answers}; are they of this file?")
    return replace(found, pairs=pairs)


def _sources(found: Answered, answers: Path, data_root: Path | None, grades: Path | None) -> dict[str, Any]:
    """What the scores were made from."""
    return {
        "answers": str(answers),
        "answers_sha256": file_sha256(answers),
        "data_root": None if data_root is None else str(data_root),
        "data_sha256": found.data_sha256,
        "grades": None if grades is None else _graded_by(grades, answers),
        "manifest": found.manifest,
    }


def _graded_by(grades: Path, answers: Path) -> dict[str, Any]:
    """The grade file; and a ``note``, which is printed too, where nobody knows that it is of these answers."""
    found = {"path": str(grades), "sha256": file_sha256(grades)}
    note = untied(grades, answers)
    if note is None:
        return found
    print(f"{grades}: {note}", file=sys.stderr)
    return {**found, "note": note}


def _spare(out: Path, read: Sequence[Path]) -> None:
    """Raise UserError if the scores or their rows would be written over a file that they are made from."""
    for path in read:
        if path.resolve() in (out.resolve(), rows_path(out).resolve()):
            raise UserError(f"{path}: would be overwritten by the scores; choose another --out")


def _scorable(benchmark: Benchmark, grades: Path | None) -> Benchmark:
    """The benchmark as it can be scored here.

    Raises:
        UserError: it cannot.
    """
    if grades is not None:
        return benchmark.with_grades(grades)
    if benchmark.server:
        raise UserError(
            f"{benchmark.name}: cannot be scored here, its answers are not public; write what its server takes with "
            f"llava-teamlora evaluate export {benchmark.name} --answers FILE --out DIR, then: {benchmark.server}"
        )
    if benchmark.judged:
        raise ungraded(benchmark.name)
    return benchmark


def export(benchmark: Benchmark, answers: Path, out: Path, data_root: Path | None = None) -> list[Path]:
    """Write what the official tool or server takes, of a complete answers file.

    Returns:
        The files written, in the folder ``out``.

    Raises:
        UserError: see :func:`load_answered` and ``Benchmark.export``.
    """
    pairs = load_answered(benchmark, answers, data_root).pairs
    samples, texts = [sample for sample, _ in pairs], [prediction.text for _, prediction in pairs]
    return benchmark.export(samples, texts, out, data_root)


def rows_path(out: Path) -> Path:
    """``scores.json`` -> ``scores.rows.jsonl``, ``llava-v1.5-7b`` -> ``llava-v1.5-7b.rows.jsonl``."""
    return beside(out, ROWS)


def file_sha256(path: Path) -> str:
    """Digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _heading(benchmark: Benchmark, found: Answered) -> dict[str, Any]:
    """What was scored, and how much of it."""
    answered, name = len(found.pairs), benchmark.name
    if answered < found.questions:
        name += f" [partial: {answered} of {found.questions}]"
    decoding = (found.manifest or {}).get("decoding")
    if isinstance(decoding, dict) and decoding.get("answer_by") == "likelihood":
        name += " [likelihood]"
    return {
        "format": _FORMAT,
        "benchmark": benchmark.name,
        "name": name,
        "version": benchmark.version,
        "metric": benchmark.metric,
        "answered": answered,
        "questions": found.questions,
    }


def _plain(scores: Scores) -> dict[str, Any]:
    return {
        "total": asdict(scores.total),
        "groups": {name: asdict(found) for name, found in scores.groups.items()},
        "extra": {name: asdict(found) for name, found in scores.extra.items()},
    }


def _baselines(benchmark: Benchmark, samples: Sequence[Sample], data_root: Path | None) -> dict[str, Any]:
    found = {}
    for name, baseline in benchmark.baselines(samples, data_root).items():
        verdicts = [benchmark.judge(sample, baseline.answers[sample.key]) for sample in samples]
        found[name] = {"how": baseline.how, **_plain(benchmark.aggregate(samples, verdicts))}
    return found


def _row(pair: tuple[Sample, Prediction], verdict: Verdict) -> dict[str, Any]:
    """All that a comparison or a viewer needs to know of a row, without the benchmark's files."""
    sample, prediction = pair
    return {
        "key": sample.key,
        "question_id": sample.question_id,
        "group": sample.group,
        "cluster": sample.cluster,
        "image": str(sample.image) if sample.image else None,
        "prompt": sample.prompt,
        "text": prediction.text,
        "parsed": verdict.parsed,
        "targets": list(sample.targets),
        "choices": list(sample.choices),
        "score": verdict.score,
        "extra": dict(verdict.extra),
        "metadata": dict(sample.metadata),
        **({} if prediction.asked is None else {"asked": prediction.asked}),
    }
