"""The made-up rows of CME's tasks in eval/fixtures, as their own modules read them."""

from __future__ import annotations

from pathlib import Path

from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.cme.task import Item, TextTask

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"


def task(name: str) -> TextTask:
    found = BENCHMARKS[name]
    assert isinstance(found, TextTask)
    return found


def of_fixture(name: str) -> list[Item]:
    return [
        item
        for source in task(name).tests
        for path in source.find(FIXTURES / name)
        for item in task(name).items(path, source.group)
    ]
