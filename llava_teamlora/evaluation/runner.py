"""Model (or server) and benchmark -> ``predictions.jsonl`` and ``manifest.json``, and then ``scores.json``.

Begin here; the steps lie in ``prediction/``: plan and job, batches, who answers, what lies on disk meanwhile, what the
manifest says, and how several processes share the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.prediction.answerers import ModelAnswerer
from llava_teamlora.evaluation.prediction.conclusion import scores_path
from llava_teamlora.evaluation.prediction.journal import PREDICTIONS, locked, merge
from llava_teamlora.evaluation.prediction.manifest import Record, Tally, begin
from llava_teamlora.evaluation.prediction.plan import Job, Plan, make_job
from llava_teamlora.evaluation.prediction.processes import ALONE, Processes
from llava_teamlora.evaluation.prediction.responses import Answerer, unanswered
from llava_teamlora.evaluation.prediction.share import Share
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
    job = make_job(benchmark, decoding, plan)
    answers = answer_job(job, answerer)
    return score(benchmark, answers, scores_path(job), limit=plan.limit, data_root=plan.data_root)


def predict(benchmark: Benchmark, answerer: Answerer, decoding: Decoding, plan: Plan) -> Path:
    """Answer what is not answered yet.

    Returns:
        The answers file, ``plan.out / predictions.jsonl``, in the benchmark's order.

    Raises:
        UserError: earlier answers there are of another model, decoding or benchmark, or nothing can be written; or some
            questions could not be answered, while the answers to the others are kept.
    """
    return answer_job(make_job(benchmark, decoding, plan), answerer)


def answer_job(job: Job, answerer: Answerer, processes: Processes = ALONE) -> Path:
    """As :func:`predict`, with what is loaded already, by all processes together.

    Raises:
        UserError: on every process, as :func:`predict`.
    """
    out, record = job.plan.out, None
    share, tallies = Share(job, answerer, processes), []
    with ExitStack() as folder:
        with processes.together():
            answerer.check(job.asked)
            if processes.first:
                folder.enter_context(locked(out))
                record = begin(job, answerer, processes.count)
        try:
            failure = None
            try:
                share.answer(record)
            except UserError as error:
                failure = error
            tallies = processes.gather(share.tally)
            processes.agree(failure)
            if aside := sum(processes.gather(share.aside), []):
                raise unanswered(aside, len(job.asked))
            with processes.together():
                if record is not None:
                    record.write(tallies, ended=True)
                    merge(out, job.samples, len(job.asked))
        except BaseException as error:
            if record is not None:
                _note(record, tallies or [share.tally], bool(tallies) or processes.count == 1, error)
            raise
        finally:
            failure = None  # see Processes.agree
    return out / PREDICTIONS


def _note(record: Record, tallies: Sequence[Tally], ended: bool, error: BaseException) -> None:
    """Say how far it went before an error, which is what is told: the others are not asked about this one."""
    try:
        record.write(tallies, ended=ended)
    except UserError as another:
        if str(another) != str(error):
            print(another, file=sys.stderr)
