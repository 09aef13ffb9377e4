"""What comes after the answers: scores where they can be made here, else the files that a server or a judge takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.evaluation.companions import MANIFEST
from llava_teamlora.evaluation.prediction.journal import PREDICTIONS
from llava_teamlora.evaluation.prediction.plan import Job
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.report import build_report, print_report
from llava_teamlora.evaluation.score_files import SCORES
from llava_teamlora.evaluation.scoring import export, score
from llava_teamlora.files import beside

EXPORT = "export"


@dataclass(frozen=True)
class Ending:
    """How one benchmark ended.

    Attributes:
        lines: to be printed.
        scores: the file, where it could be scored here.
    """

    lines: tuple[str, ...]
    scores: Path | None = None


def conclude(job: Job, scored: bool) -> Ending:
    """Score or export what has been answered.

    Args:
        job: whose answers are complete.
        scored: False to leave it at the answers.

    Raises:
        UserError: see ``scoring.score`` and ``scoring.export``.
    """
    benchmark, plan = job.benchmark, job.plan
    answers = plan.out / PREDICTIONS
    cost = _cost(read_json_object(plan.out / MANIFEST)["cost"], len(job.asked))
    if not scored:
        return Ending((cost, f"answers: {answers}"))
    if not benchmark.server and not benchmark.judged:
        scores = scores_path(job)
        score(benchmark, answers, scores, limit=plan.limit, data_root=plan.data_root)
        kept = "" if scores.name == SCORES else f" (partial; those of more questions stay in {plan.out / SCORES})"
        return Ending((cost, f"scores: {scores}{kept}"), scores)
    if len(job.asked) < len(job.samples):
        part = f"{len(job.asked)} of {len(job.samples)} questions"
        return Ending((cost, f"answers: {answers} ({part}: nothing is exported before all are answered)"))
    written = export(benchmark, answers, plan.out / EXPORT, plan.data_root)
    lines = (cost, f"answers: {answers}", *(f"written: {path}" for path in written))
    return Ending((*lines, f"then: {benchmark.server or _how_to_grade(job)}"))


def scores_path(job: Job) -> Path:
    """Where scores go: ``scores.json``, but ``scores.limit-10.json`` where those of more questions lie there.

    Raises:
        UserError: what lies there cannot be read.
    """
    path, asked = job.plan.out / SCORES, len(job.asked)
    if asked == len(job.samples) or not path.exists():
        return path
    there = read_json_object(path).get("answered")
    return beside(path, f".limit-{asked}.json") if isinstance(there, int) and there > asked else path


def _how_to_grade(job: Job) -> str:
    data = f" --data_root {job.plan.data_root}" if job.plan.data_root else ""
    command = f"llava-teamlora evaluate grade {job.benchmark.name} --answers {job.plan.out / PREDICTIONS}{data}"
    return f"{command} (--endpoint URL | --judge_path FOLDER), or take the official tool's grades"


def _cost(cost: dict[str, Any], asked: int) -> str:
    """What the answering took, of all that is there: more than was asked for now where --limit came after."""
    answered, seconds, memory = cost["answered"], cost["predict_seconds"], cost["peak_mem_mib"] or 0
    count = f"{asked} questions" if answered == asked else f"{asked} questions asked for; so far {answered} answered"
    cut = f", {cost['cut_short']} cut short by --max_new_tokens" if cost["cut_short"] else ""
    return f"{count} in {seconds:.1f} s, at most {memory} MiB{cut}"


def print_summary(endings: Sequence[tuple[Job, Ending]]) -> None:
    """The table of what was scored, and for each benchmark what it cost and where it lies."""
    scores = [str(ending.scores) for _, ending in endings if ending.scores is not None]
    if scores:
        print_report(build_report(scores, published=False))
    for job, ending in endings:
        prefix = f"{job.benchmark.name}: " if len(endings) > 1 else ""
        for line in ending.lines:
            print(prefix + line)
