"""CME's local files -> documents as lm-eval's tasks expect them, which are those of the hub's data sets.

The rows are read by the tasks' own modules, so that every edition that ``evaluate run`` reads serves here too.
Texts come without white space around them. Three of the eleven have no task in lm-eval: tldr, imdb and webqa.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.evaluation.benchmarks import BENCHMARKS, ELEVEN
from llava_teamlora.evaluation.cme.task import Item, Source, TextTask, take_words
from llava_teamlora.evaluation.cme.triviaqa import quiz_rows
from llava_teamlora.evaluation.reading import data_folder, take

Document = dict[str, Any]
Split = Literal["test", "shots"]


@dataclass(frozen=True)
class Harnessed:
    """A task of lm-eval's over one of CME's.

    Attributes:
        name: lm-eval's.
        task: CME's.
        group: of the task's items, the part it is about; empty for all.
        document: an item as lm-eval's task expects it.
    """

    name: str
    task: str
    group: str
    document: Callable[[Item], Document]


def write_documents(wanted: Sequence[Harnessed], data_root: Path | None, split: Split, folder: Path) -> dict[str, int]:
    """One file of JSON lines a task, ``<name>.<split>.jsonl``; each of the users' files is read once.

    Args:
        wanted: tasks of one data set of CME's, or of several.
        data_root: folder of the benchmarks; None for the default.
        split: what is asked, or where examples ("shots") are taken from.
        folder: where to write.

    Returns:
        How many documents each has.

    Raises:
        UserError: the users' files are missing, broken, or hold nothing for a task.
    """
    count = dict.fromkeys((one.name for one in wanted), 0)
    with ExitStack() as stack:
        paths = {one.name: folder / f"{one.name}.{split}.jsonl" for one in wanted}
        files = {name: stack.enter_context(path.open("w", encoding="utf-8")) for name, path in paths.items()}
        for task in dict.fromkeys(one.task for one in wanted):
            by_group = {one.group: one for one in wanted if one.task == task}
            for one, document in _documents(task, by_group, data_root, split):
                files[one.name].write(json.dumps(document, ensure_ascii=False) + "\n")
                count[one.name] += 1
    if empty := [name for name in count if not count[name]]:
        few = ", ".join(empty[:3]) + ("…" if len(empty) > 3 else "")
        raise UserError(f"the files under {data_folder(data_root, '')} hold nothing for {len(empty)} tasks ({few})")
    return count


def _documents(
    task: str, by_group: Mapping[str, Harnessed], data_root: Path | None, split: Split
) -> Iterator[tuple[Harnessed, Document]]:
    """The documents of all items of a task, each with whom it is for."""
    for source, path in _files(task, by_group, data_root, split):
        if task == "triviaqa":  # an item's answers are in normal form, and lm-eval's task compares aliases as written
            yield from ((by_group[""], _trivia(row, where)) for where, row in quiz_rows(path))
            continue
        for item in task_of(task).items(path, source.group):
            if one := by_group.get(item.group) or by_group.get(""):
                yield one, one.document(item)


def _files(
    task: str, by_group: Mapping[str, Harnessed], data_root: Path | None, split: Split
) -> Iterator[tuple[Source, Path]]:
    folder = data_folder(data_root, task_of(task).folder)
    for source in task_of(task).tests:
        if source.group and source.group not in by_group:
            continue
        patterns = source.paths if split == "test" else _shots(task, source.paths)
        found = Source(patterns, source.what, source.origin, source.prefix).find(folder)
        if not found:
            why = source.what if split == "test" else "--num_fewshot takes its examples from it"
            raise UserError(
                f"{folder / patterns[0]}: no such file ({why}; from {source.origin}); llava-teamlora evaluate check "
                f"{task} lists what is read"
            )
        yield from ((source, path) for path in found)


def harnessed(names: list[str]) -> list[Harnessed]:
    """lm-eval's tasks, for names of CME's tasks, of lm-eval's, or ``cme`` for all.

    Raises:
        UserError: lm-eval has no such task.
    """
    found: dict[str, Harnessed] = {}
    for name in names:
        several = [one for one in HARNESSED.values() if name in (one.name, one.task, "cme")]
        if not several:
            have = ", ".join(dict.fromkeys(one.task for one in HARNESSED.values()))
            none = "lm-eval has no task for it; " if name in ELEVEN else ""
            hint = "" if none else nearest(name, (*HARNESSED, *ELEVEN))
            raise UserError(f"{name!r}: {none}this protocol has {have} (and cme for all of these){hint}")
        found |= {one.name: one for one in several}
    return list(found.values())


def task_of(name: str) -> TextTask:
    """CME's task of that name."""
    task = BENCHMARKS[name]
    assert isinstance(task, TextTask)
    return task


_SPLIT = re.compile(r"(?<![a-z])(test|dev|validation|val)(?![a-z])", re.IGNORECASE)
_SHOTS = {
    "winogrande": ("winogrande_1.1/train_xl.jsonl", "train_xl.jsonl", "winogrande_xl/train-*.parquet", "train*.parquet")
}


def _shots(task: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Where the examples lie: in the training split, of MMLU in the dev split, beside the files that are asked."""
    split = "dev" if task == "mmlu" else "train"

    def other(match: re.Match[str]) -> str:
        return split.capitalize() if match[0][0].isupper() else split

    return _SHOTS.get(task) or tuple(_SPLIT.sub(other, pattern) for pattern in patterns)


def _pair(first: str, second: str, *labels: str) -> Callable[[Item], Document]:
    """Two texts and the number of their label."""
    return lambda item: {first: item.texts[0], second: item.texts[1], "label": labels.index(item.answers[0])}


def _blank(item: Item) -> Document:
    options = dict(zip(("option1", "option2"), item.choices, strict=True))
    return {"sentence": item.texts[0], **options, "answer": str(ord(item.answers[0]) - ord("A") + 1)}


def _science(item: Item) -> Document:
    letters = [chr(ord("A") + number) for number in range(len(item.choices))]
    choices = {"text": list(item.choices), "label": letters}
    return {"question": item.texts[0], "choices": choices, "answerKey": item.answers[0]}


def _subject(item: Item) -> Document:
    return {"question": item.texts[0], "choices": list(item.choices), "answer": ord(item.answers[0]) - ord("A")}


def _open(item: Item) -> Document:
    return {"question": item.input, "answer": list(item.answers)}


def _trivia(row: Mapping[str, Any], where: str) -> Document:
    names = ("Question", "Answer", "Aliases") if "Question" in row else ("question", "answer", "aliases")
    answer = take(row, names[1], dict, where)
    return {"question": take_words(row, names[0], where), "answer": {"aliases": take(answer, names[2], list, where)}}


_NLI = _pair("premise", "hypothesis", "entailment", "neutral", "contradiction")
HARNESSED = {
    one.name: one
    for one in (
        *(Harnessed(f"anli_r{number}", "anli", f"R{number}", _NLI) for number in (1, 2, 3)),
        Harnessed("qqp", "qqp", "", _pair("question1", "question2", "not duplicate", "duplicate")),
        Harnessed("rte", "rte", "", _pair("sentence1", "sentence2", "entailment", "not_entailment")),
        Harnessed("winogrande", "winogrande", "", _blank),
        Harnessed("arc_easy", "arc", "easy", _science),
        Harnessed("arc_challenge", "arc", "challenge", _science),
        Harnessed("nq_open", "nq", "", _open),
        Harnessed("triviaqa", "triviaqa", "", _open),
        *(Harnessed(f"mmlu_{subject}", "mmlu", subject, _subject) for subject in BENCHMARKS["mmlu"].groups),
    )
}
"""By lm-eval's name."""
