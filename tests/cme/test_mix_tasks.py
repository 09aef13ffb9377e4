"""The eleven tasks' own files as training files: each is read where its publisher puts it, and known as a leak."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mix_files import leaks, make

from llava_teamlora.cme.sources import SOURCES, TASKS
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.cme.task import TextTask

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"


def train_on_tests(root: Path, name: str) -> int:
    """Copy a task's evaluation files to where its training files lie; how many answered items there are."""
    task = get_benchmark(name)
    assert isinstance(task, TextTask)
    (root / "eval").mkdir()
    shutil.copytree(FIXTURES / name, root / "eval" / name)
    count = 0
    for test, train in zip(task.tests, SOURCES[name].files, strict=True):
        for path in test.find(FIXTURES / name):
            target = root / "train" / name / train.paths[0].replace("*", path.stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
            count += sum(bool(item.answers) for item in task.items(path, test.group))
    return count


def test_a_question_without_an_answer_is_listed_and_ends_no_build(tmp_path: Path) -> None:
    train_on_tests(tmp_path, "webqa")
    manifest, records = make(tmp_path, "webqa", leaks="keep", skip_missing=False, on_bad_row="refuse")
    assert (manifest["sets"]["webqa"]["bad_rows"], manifest["sets"]["webqa"]["rows"]) == (1, len(records) + 1)
    (row,) = (json.loads(line) for line in (tmp_path / "mix.bad_rows.jsonl").read_text(encoding="utf-8").splitlines())
    assert row["source"] == "webqa" and row["problem"] == "has no answer"


@pytest.mark.parametrize("name", [source.name for source in TASKS])
def test_every_evaluation_item_is_known_again(name: str, tmp_path: Path) -> None:
    count = train_on_tests(tmp_path, name)
    manifest, records = make(tmp_path, name, leaks="keep", dedup="off", skip_missing=False)
    assert count > 2 and len(records) == count
    assert manifest["leaks"]["found"] == {"item": count}
    assert len(leaks(tmp_path)) == count
    task = get_benchmark(name)
    assert isinstance(task, TextTask)
    for record in records:
        assert record["task"] == name and record["output"].strip()
        assert (
            record["instruction"] in (task.instruction, *task.paraphrases) if task.instruction else not record["input"]
        )
