"""One process's part of the questions: which of them are left, and their answers on the way to its journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.prediction.batches import make_batches
from llava_teamlora.evaluation.prediction.journal import Journal, answered, journal_path, open_journal
from llava_teamlora.evaluation.prediction.manifest import Record, Tally
from llava_teamlora.evaluation.prediction.plan import Job
from llava_teamlora.evaluation.prediction.processes import Processes
from llava_teamlora.evaluation.prediction.progress import progress
from llava_teamlora.evaluation.prediction.responses import Answerer, Response, SetAside
from llava_teamlora.evaluation.types import Sample

_NOTE_EVERY_S = 30.0
"""What a run that is killed outright has cost is known but for this much of it."""


class Share:
    """This process's batches.

    Args:
        job: whose questions.
        answerer: who is asked.
        processes: those who share the work.

    Attributes:
        tally: what has been done.
        aside: questions that could not be answered.
    """

    def __init__(self, job: Job, answerer: Answerer, processes: Processes) -> None:
        self._job, self._answerer, self._processes = job, answerer, processes
        self.tally = Tally()
        self.aside: list[SetAside] = []

    def answer(self, record: Record | None) -> None:
        """Answer what is not answered yet.

        Args:
            record: the manifest, which the first process keeps.

        Raises:
            UserError: a journal cannot be written, on every process, and before anybody answers anything; or see
                ``Answerer.answer``, which is told on stderr at once: the others may take hours yet.
        """
        processes, out = self._processes, self._job.plan.out
        with ExitStack() as held:
            with processes.together():  # all have read what is done, and can write, before anybody does
                done = answered(out)
                left = self._left(done)
                journal = held.enter_context(open_journal(journal_path(out, processes.rank))) if left else None
            if journal is None:
                return
            try:
                self._write(left, done, journal, record)
            except UserError as error:
                if processes.count > 1:
                    print(f"process {processes.rank}: {error}; the others go on", file=sys.stderr)
                raise

    def _left(self, done: Collection[str]) -> Sequence[Sequence[Sample]]:
        """The batches, those left out that are answered already."""
        share = make_batches(self._job.asked, self._job.plan.at_once)[self._processes.rank :: self._processes.count]
        left = [batch for batch in share if any(sample.key not in done for sample in batch)]
        if self._answerer.whole_batches:
            return left
        return [[sample for sample in batch if sample.key not in done] for batch in left]

    def _write(
        self, left: Sequence[Sequence[Sample]], done: Collection[str], journal: Journal, record: Record | None
    ) -> None:
        """Put answers into the journal as they come."""
        processes, name = self._processes, self._job.benchmark.name
        title = name if processes.count == 1 else f"{name} (process 1 of {processes.count})"
        started = noted = time.perf_counter()
        with progress(title, sum(map(len, left)), processes.first) as advance:
            for found in self._answerer.answer(left, self._job.decoding):
                # A batch is asked as a whole, those of it that an earlier run has answered too.
                self.aside += [one for one in found if isinstance(one, SetAside) and one.key not in done]
                new = [one for one in found if isinstance(one, Response) and one.sample.key not in done]
                journal.append(_row(response, self._answerer.name) for response in new)
                now = time.perf_counter()
                self.tally.add(new, now - started)
                if record is not None and now - noted > _NOTE_EVERY_S:
                    record.write([self.tally], ended=False)
                    noted = now
                advance(len(found))


def _row(answer: Response, model: str) -> dict[str, Any]:
    """LLaVA's row; what the answerer has to say of an answer goes into its metadata."""
    sample = answer.sample
    if answer.metadata:
        sample = replace(sample, metadata={**sample.metadata, **answer.metadata})
    return answer_row(sample, answer.text, model)
