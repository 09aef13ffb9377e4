"""Model (or server) and benchmark -> ``predictions.jsonl`` and ``manifest.json``, and then ``scores.json``.

Begin here; the steps lie in ``prediction/``: plan and job, batches, who answers, what lies on disk meanwhile, what the
manifest says, and how several processes share the work.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.prediction.answerers import Answerer, ModelAnswerer, Response
from llava_teamlora.evaluation.prediction.batches import make_batches
from llava_teamlora.evaluation.prediction.journal import PREDICTIONS, collect, journal_path, merge, open_journal
from llava_teamlora.evaluation.prediction.manifest import Leg, begin, finish
from llava_teamlora.evaluation.prediction.plan import Job, Plan, make_job
from llava_teamlora.evaluation.prediction.processes import ALONE, Processes
from llava_teamlora.evaluation.prediction.progress import progress
from llava_teamlora.evaluation.score_files import SCORES
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import Benchmark

if TYPE_CHECKING:
    from llava_teamlora.generation import Decoding

__all__ = ["PREDICTIONS", "SCORES", "ModelAnswerer", "Plan", "answer_job", "evaluate", "predict"]


def evaluate(benchmark: Benchmark, answerer: Answerer, decoding: Decoding, plan: Plan) -> dict[str, Any]:
    """Predict, then score what the plan asks for; returns the content of ``scores.json``.

    Raises:
        UserError: see :func:`predict` and ``scoring.score``.
    """
    answers = predict(benchmark, answerer, decoding, plan)
    return score(benchmark, answers, plan.out / SCORES, limit=plan.limit, data_root=plan.data_root)


def predict(benchmark: Benchmark, answerer: Answerer, decoding: Decoding, plan: Plan) -> Path:
    """Answer what is not answered yet.

    Returns:
        The answers file, ``plan.out / predictions.jsonl``, in the benchmark's order.

    Raises:
        UserError: earlier answers there are of another model, decoding or benchmark, or nothing can be written.
    """
    return answer_job(make_job(benchmark, decoding, plan), answerer)


def answer_job(job: Job, answerer: Answerer, processes: Processes = ALONE) -> Path:
    """As :func:`predict`, with what is loaded already, by all processes together.

    Raises:
        UserError: on every process, as :func:`predict`.
    """
    manifest: dict[str, Any] = {}
    with processes.together():
        answerer.check(job.asked)
        if processes.first:
            manifest = begin(job, answerer, processes.count)
    own, legs = Leg(), []
    try:
        failure = None
        try:
            _answer_share(job, answerer, processes, own)
        except UserError as error:
            failure = error
        legs = processes.gather(own)
        processes.agree(failure)
        with processes.together():
            if processes.first:
                merge(job.plan.out, job.samples, len(job.asked))
    finally:
        if processes.first:
            finish(job, manifest, legs or [own])
    return job.plan.out / PREDICTIONS


def _answer_share(job: Job, answerer: Answerer, processes: Processes, leg: Leg) -> None:
    """This process's batches, those left out that are answered already."""
    # Every process goes by what it finds here, though others may be writing by now: their questions are not its own.
    done = collect(job.plan.out).keys()
    share = make_batches(job.asked, job.plan.at_once)[processes.rank :: processes.count]
    left = [batch for batch in share if any(sample.key not in done for sample in batch)]
    if not answerer.whole_batches:
        left = [[sample for sample in batch if sample.key not in done] for batch in left]
    if not left:
        return
    name = job.benchmark.name if processes.count == 1 else f"{job.benchmark.name} (process 1 of {processes.count})"
    started = time.perf_counter()
    with (
        open_journal(journal_path(job.plan.out, processes.rank)) as journal,
        progress(name, sum(map(len, left)), processes.first) as advance,
    ):
        for answers in answerer.answer(left, job.decoding):
            new = [answer for answer in answers if answer.sample.key not in done]
            journal.append(_row(answer, answerer.name) for answer in new)
            leg.add(new, time.perf_counter() - started)
            advance(len(answers))


def _row(answer: Response, model: str) -> dict[str, Any]:
    """LLaVA's row; what the answerer has to say of an answer goes into its metadata."""
    sample = answer.sample
    if answer.metadata:
        sample = replace(sample, metadata={**sample.metadata, **answer.metadata})
    return answer_row(sample, answer.text, model)
