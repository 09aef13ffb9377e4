"""``manifest.json``: whose answers lie beside it, how they were made and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import write_json
from llava_teamlora.evaluation.prediction.answerers import Answerer, Response
from llava_teamlora.evaluation.prediction.journal import PREDICTIONS, journals
from llava_teamlora.evaluation.prediction.plan import Job
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.score_files import SCORES
from llava_teamlora.evaluation.scoring import MANIFEST, rows_path
from llava_teamlora.machine import peak_memory_mib

# Where a model lay and what it ran on do not decide what it says; its fingerprints do.
_NOT_IDENTITY = ("model.model", "model.base.", "model.device", "model.endpoint", "model.versions.commit")
_PARTS = ("benchmark", "model", "decoding")
_COUNTS = ("answered", "predict_seconds", "generated_tokens", "pictures_decoded", "cut_short")


@dataclass
class Leg:
    """What one process has done since it was started.

    Attributes:
        answered: questions.
        generated_tokens: of their answers.
        pictures_decoded: for them.
        cut_short: answers that were ended by their greatest length.
        seconds: that it took.
        peak_mem_mib: most memory the process held.
    """

    answered: int = 0
    generated_tokens: int = 0
    pictures_decoded: int = 0
    cut_short: int = 0
    seconds: float = 0.0
    peak_mem_mib: int = 0

    def add(self, answers: Sequence[Response], seconds: float) -> None:
        """Count answers that are written, ``seconds`` after the leg's beginning."""
        self.answered += len(answers)
        self.generated_tokens += sum(answer.tokens for answer in answers)
        self.cut_short += sum(answer.cut for answer in answers)
        self.pictures_decoded += len({answer.sample.image for answer in answers} - {None})
        self.seconds, self.peak_mem_mib = seconds, peak_memory_mib()


def begin(job: Job, answerer: Answerer, processes: int) -> dict[str, Any]:
    """Check that earlier answers may be continued, and write the manifest.

    Raises:
        UserError: they are of another model, decoding or benchmark, or of unknown origin.
    """
    plan = job.plan
    manifest = {
        "benchmark": job.identity,
        "model": dict(answerer.manifest),
        "decoding": {"mode": plan.mode, **answerer.decoding(job.decoding)},
        "batch_size": plan.at_once,
        "processes": processes,
        "first_prompt": answerer.shown(job.samples[0]),
        "cost": _cost({}, []),
    }
    path = plan.out / MANIFEST
    answers = [file for file in (plan.out / PREDICTIONS, *journals(plan.out)) if file.exists()]
    if plan.overwrite:
        scores = plan.out / SCORES  # of the answers that go; a judge's or a server's would else stand beside others
        for file in (*answers, path, scores, rows_path(scores)):
            file.unlink(missing_ok=True)
    elif answers and not path.exists():
        raise UserError(f"{answers[0]}: there are answers, but no {MANIFEST} says whose; use --overwrite to drop them")
    elif path.exists():
        manifest["cost"] = _continued(job, manifest, _PARTS)
    write_json(path, manifest)
    return manifest


def check_earlier(job: Job) -> None:
    """See, before a model is loaded, that earlier answers are to the same questions.

    Raises:
        UserError: they are not, and may not be dropped.
    """
    if not job.plan.overwrite and (job.plan.out / MANIFEST).exists():
        _continued(job, {"benchmark": job.identity}, ("benchmark",))


def finish(job: Job, manifest: dict[str, Any], legs: Sequence[Leg]) -> None:
    """Add to the manifest what the processes' legs cost; of one that was killed outright nothing is known."""
    write_json(job.plan.out / MANIFEST, {**manifest, "cost": _cost(manifest["cost"], legs)})


def _cost(earlier: dict[str, Any], legs: Sequence[Leg]) -> dict[str, Any]:
    """Sums over all legs; processes run side by side, so the slowest one's seconds count."""
    answered = earlier.get("answered", 0) + sum(leg.answered for leg in legs)
    tokens = earlier.get("generated_tokens", 0) + sum(leg.generated_tokens for leg in legs)
    seconds = earlier.get("predict_seconds", 0.0) + max((leg.seconds for leg in legs), default=0.0)
    memory = max([earlier.get("peak_mem_mib") or 0, *(leg.peak_mem_mib for leg in legs)])
    return {
        "answered": answered,
        "predict_seconds": round(seconds, 2),
        "questions_per_second": round(answered / seconds, 2) if seconds else None,
        "generated_tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "cut_short": earlier.get("cut_short", 0) + sum(leg.cut_short for leg in legs),
        "pictures_decoded": earlier.get("pictures_decoded", 0) + sum(leg.pictures_decoded for leg in legs),
        "peak_mem_mib": memory or None,
    }


def _continued(job: Job, manifest: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """What the earlier answers cost, whose manifest lies in the folder and agrees in those parts.

    Raises:
        UserError: it is no manifest of ours, or another model, decoding or benchmark made them.
    """
    path = job.plan.out / MANIFEST
    earlier = read_json_object(path)
    strange = [part for part in _PARTS if not isinstance(earlier.get(part), dict)]
    if strange or not _is_cost(earlier.get("cost")):
        raise UserError(
            f"{path}: is not a manifest of this version ({', '.join(strange or ['cost'])} missing or malformed); "
            "choose another --out, or --overwrite to drop it and the answers beside it"
        )
    changed = _differences(_identity(earlier, parts), _identity(manifest, parts))
    if changed:
        raise UserError(
            f"{path.parent}: holds answers made otherwise ({'; '.join(changed)}); choose another --out, "
            "or --overwrite to drop them"
        )
    return earlier["cost"]


def _is_cost(cost: Any) -> bool:
    """Whether it holds the numbers that :func:`finish` adds to."""
    if not isinstance(cost, dict) or not {*_COUNTS, "peak_mem_mib"} <= cost.keys():
        return False
    numbers = (*(cost[name] for name in _COUNTS), cost["peak_mem_mib"] or 0)
    return all(isinstance(number, (int, float)) for number in numbers)


def _identity(manifest: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """The flat part of a manifest that must agree for answers to belong together."""
    flat = {}
    for part in parts:
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
