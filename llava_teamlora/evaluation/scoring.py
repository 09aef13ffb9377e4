"""Answers file -> ``scores.json`` and a log of every row. Never loads a model, never imports torch.

In: a benchmark and an answers file, ours or LLaVA's. Out: ``scores.json`` (total and groups with standard errors,
the baselines on the same rows, the manifest of the answers) and beside it ``scores.rows.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_teamlora.evaluation.answers import join, read_answers, write_json
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.types import Benchmark, Prediction, Sample, Scores, Verdict
from llava_teamlora.files import write_atomically

MANIFEST = "manifest.json"
_FORMAT = 1


def score(
    benchmark: Benchmark,
    answers: Path,
    out: Path,
    *,
    partial: bool = False,
    limit: int | None = None,
    data_root: Path | None = None,
) -> dict[str, Any]:
    """Score an answers file.

    Args:
        benchmark: what was answered.
        answers: JSON lines; a ``manifest.json`` beside it is copied into the scores.
        out: where ``scores.json`` goes; the rows go beside it as ``*.rows.jsonl``.
        partial: score what is there; the scores' name then says so.
        limit: score only the first so many questions, and let other answers be; None for all.
        data_root: see ``Benchmark.load``.

    Returns:
        What was written to ``out``.

    Raises:
        UserError: see ``answers.read_answers`` and ``answers.join``.
    """
    everything = benchmark.load(data_root)
    beyond = {sample.key for sample in everything[len(everything) if limit is None else limit :]}
    found = [prediction for prediction in read_answers(answers, everything) if prediction.key not in beyond]
    joined = join(everything[:limit], found, answers, partial)
    samples = [sample for sample, _ in joined]
    verdicts = [benchmark.judge(sample, prediction.text) for sample, prediction in joined]
    manifest = answers.parent / MANIFEST
    content = {
        **_heading(benchmark, len(joined), len(everything)),
        **_plain(benchmark.aggregate(samples, verdicts)),
        "baselines": _baselines(benchmark, samples, data_root),
        "answers": str(answers),
        "manifest": read_json_object(manifest) if manifest.is_file() else None,
    }
    rows = (_row(pair, verdict) for pair, verdict in zip(joined, verdicts, strict=True))
    write_atomically(rows_path(out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(out, content)
    return content


def rows_path(out: Path) -> Path:
    """``scores.json`` -> ``scores.rows.jsonl``."""
    return out.with_suffix(".rows.jsonl")


def _heading(benchmark: Benchmark, answered: int, questions: int) -> dict[str, Any]:
    """What was scored, and how much of it."""
    suffix = f" [partial: {answered} of {questions}]" if answered < questions else ""
    return {
        "format": _FORMAT,
        "benchmark": benchmark.name,
        "name": benchmark.name + suffix,
        "version": benchmark.version,
        "metric": benchmark.metric,
        "answered": answered,
        "questions": questions,
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
    sample, prediction = pair
    return {
        "key": sample.key,
        "group": sample.group,
        "image": str(sample.image) if sample.image else None,
        "prompt": sample.prompt,
        "text": prediction.text,
        "parsed": verdict.parsed,
        "targets": list(sample.targets),
        "score": verdict.score,
        **verdict.extra,
    }
