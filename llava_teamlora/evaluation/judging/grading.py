"""Answers and a judge -> a grade file in the official form, and ``*.manifest.json`` beside it.

Every grade is kept as it comes in (``*.cache.jsonl``), so that grading which was interrupted, or failed, goes on from
there. The order of the grade file is the benchmark's, however the replies came in.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import write_json
from llava_teamlora.evaluation.endpoint import Patience, Reply
from llava_teamlora.evaluation.judging.cache import Cache, Place
from llava_teamlora.evaluation.judging.judges import Judge
from llava_teamlora.evaluation.judging.provenance import answer_digest, file_digest, provenance_path
from llava_teamlora.evaluation.judging.rubric import Grade, Rubric
from llava_teamlora.evaluation.prediction.progress import progress
from llava_teamlora.evaluation.prediction.threads import side_by_side
from llava_teamlora.evaluation.types import Benchmark, Prediction, Sample
from llava_teamlora.files import beside, write_atomically

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
    _refuse_unfit(plan, benchmark.name, rubric)
    grading = _Grading(rubric, judge, plan)
    tasks = [grading.task(sample, found.text, run) for run in range(1, plan.runs + 1) for sample, found in pairs]
    unread = grading.ask(tasks, f"{benchmark.name} by {judge.name}")
    if unread and plan.unreadable == "error":
        raise UserError(grading.complaint(unread, len(tasks)))
    grades: dict[str, list[Grade]] = defaultdict(list)
    for task in tasks:
        grades[task.place.key].append(unread[task.place] if task.place in unread else grading.cache[task.place].grade)
    write_atomically(plan.out, rubric.file([sample for sample, _ in pairs], [found.text for _, found in pairs], grades))
    manifest = {
        **_heading(benchmark, rubric, judge, plan),
        "served_models": sorted({found.model for some in grades.values() for found in some}),
        **_dates([grading.cache[task.place].at for task in tasks if task.place not in unread]),
        "unreadable_as_zero": [{"key": place.key, "run": place.run} for place in unread],
        "grades_sha256": file_digest(plan.out),
        "answers_sha256": {sample.key: answer_digest(found.text) for sample, found in pairs},
    }
    write_json(provenance_path(plan.out), manifest)
    return plan.out


def _refuse_unfit(plan: GradingPlan, name: str, rubric: Rubric) -> None:
    """Raise UserError if the benchmark's grade file cannot hold what the plan asks for."""
    if rubric.most_runs is not None and plan.runs > rubric.most_runs:
        raise UserError(
            f"--runs {plan.runs}: {name}'s grade file holds {rubric.most_runs} grade an answer; grade again "
            "into another --out for another run"
        )
    if plan.unreadable == "zero" and rubric.zero is None:
        raise UserError(f"--unreadable zero: {name} has no 0 for a reply that cannot be read")


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


def _dates(given: Sequence[str]) -> dict[str, Any]:
    return {"first_grade": min(given, default=None), "last_grade": max(given, default=None)}


@dataclass(frozen=True)
class _Task:
    """One question to the judge."""

    sample: Sample
    answer: str
    place: Place


class _Grading:
    """Asks, reads and keeps."""

    def __init__(self, rubric: Rubric, judge: Judge, plan: GradingPlan) -> None:
        self._rubric, self._judge, self._plan = rubric, judge, plan
        self._max_tokens = plan.max_tokens or rubric.max_tokens
        self.cache = Cache(beside(plan.out, ".cache.jsonl"))

    def task(self, sample: Sample, answer: str, run: int) -> _Task:
        asked = [self._rubric.messages(sample, answer, False), self._rubric.temperatures, self._max_tokens]
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return _Task(sample, answer, Place(self._judge.identity, digest, sample.key, run))

    def ask(self, tasks: Sequence[_Task], title: str) -> dict[Place, Grade]:
        """Ask for what is not kept; returns official zeros where no reply could be read, in the tasks' order.

        Raises:
            UserError: the judge failed, at the end, or as soon as it fails every question; what it said is kept.
        """
        todo = [task for task in tasks if task.place not in self.cache]
        if len(todo) < len(tasks):
            print(f"{len(tasks) - len(todo)} of {len(tasks)} grades are taken from {self.cache.path}")
        unread: dict[Place, Grade] = {}
        failed: list[str] = []
        patience, end = Patience(), None
        asked = takewhile(lambda _: end is None, todo)
        with progress(title, len(todo)) as advance:
            try:
                for task, found in side_by_side(self._grade, asked, self._plan.concurrency):
                    if isinstance(found, UserError):
                        failed.append(f"{task.place.key}, run {task.place.run}: {found}")
                        end = end or patience.end(task.place.key, found)
                    elif isinstance(found, Exception):
                        raise found
                    else:
                        patience.answered()
                        self._keep(task, *found, unread)
                    advance(1)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("; ".join(["interrupted", *self._kept(tasks)])) from None
        if failed:
            shown = f"{len(failed)} of {len(tasks)} questions to the judge failed ({'; '.join(failed[:3])})"
            raise UserError("; ".join([shown if end is None else str(end), *self._kept(tasks)])) from end
        return {task.place: unread[task.place] for task in todo if task.place in unread}

    def _keep(self, task: _Task, grade: Grade, readable: bool, unread: dict[Place, Grade]) -> None:
        if readable:
            self.cache.add(task.place, grade)
        else:
            unread[task.place] = grade

    def _kept(self, tasks: Sequence[_Task]) -> list[str]:
        """What to say of the grades that are there; nothing where there is none."""
        kept = sum(task.place in self.cache for task in tasks)
        where = f"{kept} of {len(tasks)} grades are kept in {self.cache.path}, and the same command goes on from there"
        return [where] if kept else []

    def _grade(self, task: _Task) -> tuple[Grade, bool]:
        """The judge's grade and True; or the official zero and False, where none of its replies could be read."""
        for attempt, temperature in enumerate(self._rubric.temperatures):
            reply = self._reply(task, attempt, temperature)
            scores = self._rubric.parse(reply)
            if scores is not None:
                return Grade(scores, reply.text, reply.model), True
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
        kept = f"the others are kept in {self.cache.path}; " if len(unread) < total else ""
        return (
            f"{self._judge.name}: no grade could be read in {len(self._rubric.temperatures)} replies to each of "
            f"{len(unread)} of {total} questions ({'; '.join(shown)}); {kept}{', '.join(remedies)}"
        )
