"""Model and benchmark -> ``predictions.jsonl`` and ``manifest.json``.

Batches follow from the samples and the batch size alone: longest questions first, those about one picture side
by side. So a run that was killed goes on with the very batches it would have had, and gives the same file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row, answered_keys, append_rows, write_json
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.scoring import MANIFEST, score
from llava_teamlora.evaluation.types import Benchmark, Picture, Sample
from llava_teamlora.machine import peak_memory_mib

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava_teamlora.checkpoint import Loaded
    from llava_teamlora.generation import Decoding, Generator

PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
# Where a model lay and what it ran on do not decide what it says; its fingerprints do.
_NOT_IDENTITY = ("model.model", "model.base.", "model.device", "model.versions.commit")


@dataclass(frozen=True)
class Plan:
    """What to predict and how.

    Attributes:
        out: folder for the answers.
        batch_size: questions answered at once.
        limit: only the first so many questions; None for all.
        overwrite: drop earlier answers instead of going on from them.
        data_root: see ``Benchmark.load``.
    """

    out: Path
    batch_size: int = 128
    limit: int | None = None
    overwrite: bool = False
    data_root: Path | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit} must be at least 1")


def evaluate(benchmark: Benchmark, loaded: Loaded, decoding: Decoding, plan: Plan) -> dict[str, Any]:
    """Predict, then score what the plan asks for; returns the content of ``scores.json``.

    Raises:
        UserError: see :func:`predict` and ``scoring.score``.
    """
    answers = predict(benchmark, loaded, decoding, plan)
    return score(benchmark, answers, plan.out / SCORES, limit=plan.limit, data_root=plan.data_root)


def predict(benchmark: Benchmark, loaded: Loaded, decoding: Decoding, plan: Plan) -> Path:
    """Answer what is not answered yet.

    Returns:
        The answers file, ``plan.out / predictions.jsonl``.

    Raises:
        UserError: earlier answers there are of another model, decoding or benchmark, or nothing can be written.
    """
    from llava_teamlora.generation import Generator

    samples = benchmark.load(plan.data_root)[: plan.limit]
    path = plan.out / PREDICTIONS
    manifest = _start(benchmark, loaded, decoding, plan)
    done = answered_keys(path)
    batches = [batch for batch in _batches(samples, plan.batch_size) if any(sample.key not in done for sample in batch)]
    generator = Generator(loaded)
    started = time.perf_counter()
    answered = 0
    try:
        with _progress(benchmark.name, sum(map(len, batches))) as (bar, task):
            for batch in batches:
                texts = _answer(generator, decoding, batch)
                rows = [
                    answer_row(sample, text, loaded.name)
                    for sample, text in zip(batch, texts, strict=True)
                    if sample.key not in done
                ]
                append_rows(path, rows)
                answered += len(rows)
                bar.advance(task, len(batch))
    finally:
        _finish(plan, manifest, answered, time.perf_counter() - started)
    return path


def _answer(generator: Generator, decoding: Decoding, batch: Sequence[Sample]) -> list[str]:
    """Answers of one batch; each picture is opened once."""
    from llava_teamlora.generation import Query

    pictures = {image: _load(image) for image in {sample.image for sample in batch} if image is not None}
    queries = [
        Query.ask(sample.prompt, *([pictures[sample.image]] if sample.image is not None else [])) for sample in batch
    ]
    return [answer.text for answer in generator.generate(queries, decoding)]


def _load(image: Picture) -> Image:
    from llava_teamlora.data.images import decode_image, load_image

    return load_image(image) if isinstance(image, Path) else decode_image(image.content(), image.where)


def _batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Longest first, so that memory runs out at once if at all; a picture's questions together."""
    longest: dict[Picture | str, int] = {}
    for sample in samples:
        group = sample.image or sample.key
        longest[group] = max(longest.get(group, 0), len(sample.prompt))

    def order(sample: Sample) -> tuple[int, str, int]:
        group = sample.image or sample.key
        return (-longest[group], str(group), -len(sample.prompt))

    ordered = sorted(samples, key=order)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _start(benchmark: Benchmark, loaded: Loaded, decoding: Decoding, plan: Plan) -> dict[str, Any]:
    """Check that earlier answers may be continued, and write the manifest.

    Raises:
        UserError: they may not.
    """
    manifest = {
        "benchmark": {
            "name": benchmark.name,
            "version": benchmark.version,
            "data_sha256": data_sha256(benchmark.load(plan.data_root)),
        },
        "model": loaded.manifest,
        "decoding": asdict(decoding),
        "batch_size": plan.batch_size,
        "cost": {"answered": 0, "predict_seconds": 0.0, "questions_per_second": None, "peak_mem_mib": None},
    }
    path, answers = plan.out / MANIFEST, plan.out / PREDICTIONS
    if plan.overwrite:
        answers.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    elif answers.exists() and not path.exists():
        raise UserError(f"{answers}: there are answers, but no {MANIFEST} says whose; use --overwrite to drop them")
    elif path.exists():
        manifest["cost"] = _continued(path, manifest)
    write_json(path, manifest)
    return manifest


def _continued(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the earlier answers cost, whose manifest lies at ``path``.

    Raises:
        UserError: it is no manifest of ours, or another model, decoding or benchmark made them.
    """
    earlier = read_json_object(path)
    strange = [part for part in ("benchmark", "model", "decoding") if not isinstance(earlier.get(part), dict)]
    if strange or not _is_cost(earlier.get("cost")):
        raise UserError(
            f"{path}: is not a manifest of this version ({', '.join(strange or ['cost'])} missing or malformed); "
            "choose another --out, or --overwrite to drop it and the answers beside it"
        )
    changed = _differences(_identity(earlier), _identity(manifest))
    if changed:
        raise UserError(
            f"{path.parent}: holds answers made otherwise ({'; '.join(changed)}); choose another --out, "
            "or --overwrite to drop them"
        )
    return earlier["cost"]


def _is_cost(cost: Any) -> bool:
    """Whether it holds the numbers that :func:`_finish` adds to."""
    if not isinstance(cost, dict) or not {"answered", "predict_seconds", "peak_mem_mib"} <= cost.keys():
        return False
    memory = cost["peak_mem_mib"]
    numbers = (cost["answered"], cost["predict_seconds"], 0 if memory is None else memory)
    return all(isinstance(number, (int, float)) for number in numbers)


def data_sha256(samples: Sequence[Sample]) -> str:
    """Digest of all keys, prompts and targets: tells editions of a benchmark's data apart."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.key, sample.prompt, sample.targets]).encode())
    return digest.hexdigest()


def _identity(manifest: dict[str, Any]) -> dict[str, Any]:
    """The flat part of a manifest that must agree for answers to belong together."""
    flat = {}
    for part in ("benchmark", "model", "decoding"):
        for name, value in manifest[part].items():
            if isinstance(value, dict):
                flat |= {f"{part}.{name}.{key}": item for key, item in value.items()}
            else:
                flat[f"{part}.{name}"] = value
    return {name: value for name, value in flat.items() if not name.startswith(_NOT_IDENTITY)}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return [f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _finish(plan: Plan, manifest: dict[str, Any], answered: int, seconds: float) -> None:
    """Add what this leg cost to the manifest; of one that was killed outright nothing is known."""
    earlier = manifest["cost"]
    count, total = earlier["answered"] + answered, earlier["predict_seconds"] + seconds
    manifest["cost"] = {
        "answered": count,
        "predict_seconds": round(total, 2),
        "questions_per_second": round(count / total, 1) if count else None,
        "peak_mem_mib": max(peak_memory_mib(), earlier["peak_mem_mib"] or 0),
    }
    write_json(plan.out / MANIFEST, manifest)


@contextmanager
def _progress(name: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A bar with rate and time left on stderr; nothing but its last state where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar, bar.add_task(name, total=total)
