"""Answers and a judge -> a grade file in the official form, and ``*.manifest.json`` beside it.

Every grade is kept as it comes in (``*.cache.jsonl``), so that grading which was interrupted, or failed, goes on from
there. The order of the grade file is the benchmark's, however the replies came in.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import write_json
from llava_teamlora.evaluation.endpoint import Reply
from llava_teamlora.evaluation.judging.cache import Cache, Place
from llava_teamlora.evaluation.judging.judges import Judge
from llava_teamlora.evaluation.judging.provenance import answer_digest, file_digest, provenance_path
from llava_teamlora.evaluation.judging.rubric import Grade, Rubric
from llava_teamlora.evaluation.prediction.progress import progress
from llava_teamlora.evaluation.types import Benchmark, Prediction, Sample
from llava_teamlora.files import write_atomically

_FORMAT = 1


@dataclass(frozen=True)
class GradingPlan:
    """How to grade.

    Attributes:
        out: the grade file.
        runs: how often each answer is graded.
        max_tokens: longest reply; None for the rubric's own.
        concurrency: questions asked at once.
        unreadable: what to do where no reply can be read: an error, or the official tool's zero.
    """

    out: Path
    runs: int = 1
    max_tokens: int | None = None
    concurrency: int = 4
    unreadable: Literal["error", "zero"] = "error"

    def __post_init__(self) -> None:
        for flag, value in (("runs", self.runs), ("concurrency", self.concurrency), ("judge_tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise UserError(f"--{flag} {value} must be at least 1")


def grade(
    benchmark: Benchmark, rubric: Rubric, judge: Judge, pairs: Sequence[tuple[Sample, Prediction]], plan: GradingPlan
) -> Path:
    """Grade what is not graded yet, then write the grade file and its manifest.

    Args:
        benchmark: what was answered.
        rubric: what the judge is asked.
        judge: who.
        pairs: questions and answers, in the benchmark's order.
        plan: how.

    Returns:
        ``plan.out``.

    Raises:
        UserError: the judge failed, or some of its replies could not be read; all other grades are kept.
    """
    if rubric.most_runs is not None and plan.runs > rubric.most_runs:
        raise UserError(
            f"--runs {plan.runs}: {benchmark.name}'s grade file holds {rubric.most_runs} grade an answer; grade again "
            "into another --out for another run"
        )
    if plan.unreadable == "zero" and rubric.zero is None:
        raise UserError(f"--unreadable zero: {benchmark.name} has no 0 for a reply that cannot be read")
    grading = _Grading(rubric, judge, plan)
    tasks = [grading.task(sample, found.text, run) for run in range(1, plan.runs + 1) for sample, found in pairs]
    unread = grading.ask(tasks, f"{benchmark.name} by {judge.name}")
    if unread and plan.unreadable == "error":
        raise UserError(grading.complaint(unread, len(tasks)))
    grades: dict[str, list[Grade]] = defaultdict(list)
    for task in tasks:
        grades[task.place.key].append(unread[task.place] if task.place in unread else grading.cache[task.place].grade)
    text = rubric.file([sample for sample, _ in pairs], [found.text for _, found in pairs], grades)
    write_atomically(plan.out, text)
    dates = [grading.cache[task.place].at for task in tasks if task.place not in unread]
    found = {
        "served_models": sorted({found.model for some in grades.values() for found in some}),
        "first_grade": min(dates, default=None),
        "last_grade": max(dates, default=None),
        "unreadable_as_zero": [{"key": place.key, "run": place.run} for place in unread],
        "grades_sha256": file_digest(plan.out),
        "answers_sha256": {sample.key: answer_digest(found.text) for sample, found in pairs},
    }
    write_json(provenance_path(plan.out), {**_heading(benchmark, rubric, judge, plan), **found})
    return plan.out


def _heading(benchmark: Benchmark, rubric: Rubric, judge: Judge, plan: GradingPlan) -> dict[str, Any]:
    """The manifest's part that is known before anything is asked."""
    return {
        "format": _FORMAT,
        "benchmark": {"name": benchmark.name, "version": benchmark.version},
        "judge": judge.describe(),
        "prompt": {"name": rubric.prompt_name, "sha256": hashlib.sha256(rubric.prompt.encode()).hexdigest()},
        "temperatures": list(rubric.temperatures),
        "max_tokens": plan.max_tokens or rubric.max_tokens,
        "runs": plan.runs,
    }


@dataclass(frozen=True)
class _Task:
    """One question to the judge."""

    sample: Sample
    answer: str
    place: Place


class _Stopped(Exception):
    """Another question failed before this one was asked."""


class _Grading:
    """Asks, reads and keeps."""

    def __init__(self, rubric: Rubric, judge: Judge, plan: GradingPlan) -> None:
        self._rubric, self._judge, self._plan = rubric, judge, plan
        self._stop = threading.Event()
        self._max_tokens = plan.max_tokens or rubric.max_tokens
        self.cache = Cache(plan.out.with_suffix(".cache.jsonl"))

    def task(self, sample: Sample, answer: str, run: int) -> _Task:
        asked = [self._rubric.messages(sample, answer, False), self._rubric.temperatures, self._max_tokens]
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return _Task(sample, answer, Place(self._judge.identity, digest, sample.key, run))

    def ask(self, tasks: Sequence[_Task], title: str) -> dict[Place, Grade]:
        """Ask for what is not kept; returns official zeros where no reply could be read, in the tasks' order.

        Raises:
            UserError: the judge failed; replies that were under way are waited for and kept.
        """
        todo = [task for task in tasks if task.place not in self.cache]
        if len(todo) < len(tasks):
            print(f"{len(tasks) - len(todo)} of {len(tasks)} grades are taken from {self.cache.path}")
        unread: dict[Place, Grade] = {}
        failure: UserError | None = None
        with progress(title, len(todo)) as advance, ThreadPoolExecutor(self._plan.concurrency) as pool:
            places = {pool.submit(self._grade, task): task.place for task in todo}
            try:
                for future in as_completed(places):
                    try:
                        found, readable = future.result()
                    except _Stopped:
                        continue
                    except UserError as error:
                        failure = failure or error
                        continue
                    if readable:
                        self.cache.add(places[future], found)
                    else:
                        unread[places[future]] = found
                    advance(1)
            finally:
                self._stop.set()  # after an interrupt too, nothing more is asked
        if failure is not None:
            kept = sum(task.place in self.cache for task in tasks)
            raise UserError(
                f"{failure}; {kept} of {len(tasks)} grades are kept in {self.cache.path}, and the same command goes on "
                "from there"
            ) from failure
        return {task.place: unread[task.place] for task in todo if task.place in unread}

    def _grade(self, task: _Task) -> tuple[Grade, bool]:
        """The judge's grade and True; or the official zero and False, where none of its replies could be read."""
        if self._stop.is_set():
            raise _Stopped
        try:
            for attempt, temperature in enumerate(self._rubric.temperatures):
                reply = self._reply(task, attempt, temperature)
                scores = self._rubric.parse(reply)
                if scores is not None:
                    return Grade(scores, reply.text, reply.model), True
        except BaseException:
            self._stop.set()
            raise
        return Grade(self._rubric.zero or (), reply.text, reply.model), False

    def _reply(self, task: _Task, attempt: int, temperature: float) -> Reply:
        messages = self._rubric.messages(task.sample, task.answer, attempt > 0)
        draw = task.place.run * len(self._rubric.temperatures) + attempt
        return self._judge.ask(messages, temperature, self._max_tokens, draw)

    def complaint(self, unread: Mapping[Place, Grade], total: int) -> str:
        """What to say of replies that could not be read."""
        shown = [f"{place.key}, run {place.run}: {found.content!r:.60}" for place, found in list(unread.items())[:3]]
        remedies = ["ask again with the same command, which asks for these only", "raise --judge_tokens"]
        if self._rubric.zero is not None:
            remedies.append("or score them 0 as the official tool does, with --unreadable zero")
        return (
            f"{self._judge.name}: no grade could be read in {len(self._rubric.temperatures)} replies to each of "
            f"{len(unread)} of {total} questions ({'; '.join(shown)}); the others are kept in {self.cache.path}; "
            f"{', '.join(remedies)}"
        )
