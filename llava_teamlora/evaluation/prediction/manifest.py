"""``manifest.json``: whose answers lie beside it, how they were made and what they cost.

Answers may have been made in several legs: a run that was interrupted goes on, perhaps in other batches, on another
device or with another number of processes. What tells the answers apart must be the same in all; the rest stands leg by
leg, and what earlier legs have said of themselves is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import write_json
from llava_teamlora.evaluation.companions import MANIFEST, MANIFEST_PARTS
from llava_teamlora.evaluation.prediction.journal import PREDICTIONS, answered, journals
from llava_teamlora.evaluation.prediction.plan import Job
from llava_teamlora.evaluation.prediction.responses import Answerer, Response
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.score_files import SCORES
from llava_teamlora.evaluation.scoring import rows_path
from llava_teamlora.machine import peak_memory_mib

# Where a model lay does not decide what it says; its fingerprints do.
_NOT_IDENTITY = ("model.model", "model.base.", "model.endpoint", "model.versions.commit")
# What it ran on does not either; it is each leg's own.
_PLACE = ("device", "attn_implementation")


@dataclass
class Tally:
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
        """Count answers that are written, ``seconds`` after the beginning."""
        self.answered += len(answers)
        self.generated_tokens += sum(answer.tokens for answer in answers)
        self.cut_short += sum(answer.cut for answer in answers)
        self.pictures_decoded += len({answer.sample.image for answer in answers} - {None})
        self.seconds, self.peak_mem_mib = seconds, peak_memory_mib()


class Record:
    """``manifest.json`` while answers are made.

    Args:
        path: the file.
        content: what it says of earlier legs.
        leg: how this one is made; None where nothing is left to answer, and nothing is changed then.
    """

    def __init__(self, path: Path, content: dict[str, Any], leg: dict[str, Any] | None) -> None:
        self._path, self._content, self._leg = path, content, leg
        if leg is not None:
            self.write([Tally()], ended=False)

    def write(self, tallies: Sequence[Tally], *, ended: bool) -> None:
        """Say how far this leg is.

        Args:
            tallies: of its processes, or of this one alone while others do not speak.
            ended: they are all there is to say. A leg that is killed outright never says so.
        """
        if self._leg is None:
            return
        leg = {**self._leg, **_together(tallies), "ended": ended}
        legs = [*self._content["legs"], *([] if ended and not leg["answered"] else [leg])]
        write_json(self._path, {**self._content, "legs": legs, "cost": _cost(legs)})


def begin(job: Job, answerer: Answerer, processes: int) -> Record:
    """Check that earlier answers may be continued, or drop them, and begin a leg if anything is left to answer.

    Raises:
        UserError: they are of another model, decoding or benchmark, or of unknown origin.
    """
    plan, path = job.plan, job.plan.out / MANIFEST
    model = dict(answerer.manifest)
    place = {name: model.pop(name) for name in _PLACE if name in model}
    content = {
        "benchmark": job.identity,
        "model": model,
        "decoding": {"mode": plan.mode, **answerer.decoding(job.decoding)},
        "first_prompt": answerer.shown(job.samples[0]),
        "legs": [],
    }
    if plan.overwrite:
        _drop(plan.out)
    elif path.exists():
        content = _continued(job, content, MANIFEST_PARTS)
    elif found := _answers(plan.out):
        raise UserError(f"{found[0]}: there are answers, but no {MANIFEST} says whose; use --overwrite to drop them")
    done = answered(plan.out)
    if _account_for(content["legs"], len(done)):
        write_json(path, {**content, "cost": _cost(content["legs"])})
    if all(sample.key in done for sample in job.asked):
        return Record(path, content, None)
    return Record(path, content, {"batch_size": plan.at_once, "processes": processes, **place})


def _answers(out: Path) -> list[Path]:
    return [file for file in (out / PREDICTIONS, *journals(out)) if file.exists()]


def _drop(out: Path) -> None:
    """Take away answers and their scores; a judge's or a server's would else stand beside others."""
    partial = out.glob(f"{Path(SCORES).stem}.limit-*.json*")
    scores = (out / SCORES, rows_path(out / SCORES), *partial)
    for file in (*_answers(out), out / MANIFEST, *scores):
        file.unlink(missing_ok=True)


def _account_for(legs: list[dict[str, Any]], there: int) -> bool:
    """Add answers that are there, but were not counted since their leg was killed; whether there are such."""
    uncounted = there - sum(leg["answered"] for leg in legs)
    if uncounted <= 0 or not legs:
        return False
    legs[-1]["answered"] += uncounted
    return True


def check_earlier(job: Job) -> None:
    """See, before a model is loaded, that earlier answers are to the same questions.

    Raises:
        UserError: they are not, and may not be dropped.
    """
    if not job.plan.overwrite and (job.plan.out / MANIFEST).exists():
        _continued(job, {"benchmark": job.identity}, ("benchmark",))


def _together(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Sums; processes run side by side, so the slowest one's seconds count, and each holds memory of its own."""
    found = {name: sum(getattr(tally, name) for tally in tallies) for name in asdict(Tally())}
    seconds = round(max(tally.seconds for tally in tallies), 2)
    return {**found, "seconds": seconds, "peak_mem_mib": max(tally.peak_mem_mib for tally in tallies)}


def _cost(legs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all legs; rates are of those alone that were not killed, whose seconds and tokens are known."""
    known = [leg for leg in legs if leg["ended"]]

    def total(name: str, of: Sequence[dict[str, Any]] = legs) -> Any:
        return sum(leg[name] for leg in of)

    seconds = total("seconds", known)
    return {
        "answered": total("answered"),
        "predict_seconds": round(total("seconds"), 2),
        "questions_per_second": round(total("answered", known) / seconds, 2) if seconds else None,
        "generated_tokens": total("generated_tokens"),
        "tokens_per_second": round(total("generated_tokens", known) / seconds, 1) if seconds else None,
        "cut_short": total("cut_short"),
        "pictures_decoded": total("pictures_decoded"),
        "peak_mem_mib": max((leg["peak_mem_mib"] for leg in legs), default=0) or None,
    }


def _continued(job: Job, manifest: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """The manifest of earlier answers, which agrees with this one in those parts.

    Raises:
        UserError: it is no manifest of ours, or another model, decoding or benchmark made them.
    """
    path = job.plan.out / MANIFEST
    earlier = read_json_object(path)
    strange = [part for part in MANIFEST_PARTS if not isinstance(earlier.get(part), dict)]
    if not isinstance(earlier.get("legs"), list) or not all(map(_is_leg, earlier["legs"])):
        strange.append("legs")
    if strange:
        raise UserError(
            f"{path}: is not a manifest of this version ({', '.join(strange)} missing or malformed); "
            "choose another --out, or --overwrite to drop it and the answers beside it"
        )
    changed = _differences(_identity(earlier, parts), _identity(manifest, parts))
    if changed:
        raise UserError(
            f"{path.parent}: holds answers made otherwise ({'; '.join(changed)}); choose another --out, "
            "or --overwrite to drop them"
        )
    return earlier


def _is_leg(leg: Any) -> bool:
    """Whether it holds what :func:`_cost` adds up."""
    if not isinstance(leg, dict) or not isinstance(leg.get("ended"), bool):
        return False
    return all(isinstance(leg.get(name), (int, float)) for name in asdict(Tally()))


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
