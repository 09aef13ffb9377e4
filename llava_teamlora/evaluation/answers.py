"""Answers files on disk: LLaVA's JSON lines plus one field, ``key``, that is unique a row.

A row: ``{question_id, prompt, text, answer_id, model_id, metadata, key}``. LLaVA's own scripts read these files;
theirs, which lack the key, are joined by their question ids, and by the prompt where an id is that of several rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import stream_json_lines, take
from llava_teamlora.evaluation.types import Prediction, Sample
from llava_teamlora.files import write_atomically


def answer_row(sample: Sample, text: str, model_id: str) -> dict[str, Any]:
    """One answer as LLaVA writes it. ``answer_id`` follows from model and key, so that files can be compared."""
    return {
        "question_id": sample.question_id,
        # LLaVA's scorer of ScienceQA tells by the marker in its prompts which questions have a picture.
        "prompt": sample.prompt if sample.llava_prompt is None else sample.llava_prompt,
        "text": text,
        "answer_id": hashlib.sha256(f"{model_id}\n{sample.key}".encode()).hexdigest()[:22],
        "model_id": model_id,
        "metadata": dict(sample.metadata),
        "key": sample.key,
    }


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows in one write.

    Raises:
        UserError: the file cannot be written to.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def read_answers(
    path: Path, samples: Sequence[Sample], *, limit: int | None = None, partial: bool = False
) -> list[tuple[Sample, Prediction]]:
    """Each sample with its one answer, in the samples' order; the order of the file is of no account.

    Rows of ours are found by ``key``; LLaVA's, which have none, by question id, or by question id and prompt where
    the ids repeat (MME, TextVQA). Whatever prompt a row names must be the sample's.

    Args:
        path: JSON lines, ours or LLaVA's (chunks merged or not).
        samples: all questions of the benchmark.
        limit: take only the first so many of them; answers to the others are let be.
        partial: let answers be missing.

    Raises:
        UserError: no such file, a broken row; or duplicate, unknown, missing, shuffled answers or those of another
            edition, with their numbers and the first of each.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such answers file (--answers); make one with llava-teamlora evaluate predict")
    joining = _Joining(path, samples)
    for where, row in stream_json_lines(path):
        joining.add(row, where)
    return joining.pairs(samples[:limit], partial)


class _Joining:
    """Finds the question of each row, and remembers what does not fit."""

    def __init__(self, path: Path, samples: Sequence[Sample]) -> None:
        self._path = path
        self._samples = samples
        self._by_key = {sample.key: sample for sample in samples}
        if len(self._by_key) < len(samples):
            raise ValueError(f"{len(samples) - len(self._by_key)} samples have the key of another")
        self._rows = 0
        self._found: dict[str, Prediction] = {}
        self._misfits: set[str] = set()  # keys of samples that have an answer, but not to their prompt
        self._problems: dict[str, list[str]] = defaultdict(list)

    @cached_property
    def _by_question(self) -> dict[str, list[Sample]]:
        """Question id -> samples; LLaVA and official files do not agree on whether an id is a number."""
        found: dict[str, list[Sample]] = defaultdict(list)
        for sample in self._samples:
            found[str(sample.question_id)].append(sample)
        return found

    @cached_property
    def _prompts(self) -> set[str]:
        return {prompt for sample in self._samples for prompt in _prompts(sample)}

    def add(self, row: dict[str, Any], where: str) -> None:
        """Take a row in.

        Raises:
            UserError: it is no answer at all.
        """
        _check_row(row, where)
        self._rows += 1
        line = where.removeprefix(f"{self._path}, ")
        candidates = self._candidates(row, where)
        if not candidates:
            name = f"key {row['key']!r:.80}" if "key" in row else f"question_id {row['question_id']!r:.80}"
            self._problems["unknown"].append(f"{line}: {name}")
        elif misfit := self._misfit(row, candidates[0]):
            self._problems[misfit[0]].append(f"{line}: {misfit[1]}")
            self._misfits.update(sample.key for sample in candidates)
        elif earlier := self._found.get(candidates[0].key):
            first = earlier.where.removeprefix(f"{self._path}, ")
            self._problems["duplicate"].append(f"{line}: {earlier.key} again, as {first}")
        else:
            self._found[candidates[0].key] = Prediction(candidates[0].key, row["text"], where)

    def _candidates(self, row: dict[str, Any], where: str) -> list[Sample]:
        """The row's sample; several if they share its question id and none has its prompt.

        Raises:
            UserError: the row does not say enough, or two samples have the same id and prompt.
        """
        if "key" in row:
            return [self._by_key[row["key"]]] if row["key"] in self._by_key else []
        candidates = self._by_question.get(str(row["question_id"]), [])
        if len(candidates) < 2:
            return candidates
        if row.get("prompt") is None:
            name = f"question_id {row['question_id']!r:.80}"
            raise UserError(f"{where}: {len(candidates)} questions have its {name}: it must have a 'prompt' or a 'key'")
        same = [sample for sample in candidates if row["prompt"] in _prompts(sample)]
        if len(same) > 1:
            keys = _first([sample.key for sample in same])
            raise UserError(
                f"{where}: its question_id and prompt are those of {len(same)} questions ({keys}); add a 'key'"
            )
        return same or candidates

    def _misfit(self, row: dict[str, Any], sample: Sample) -> tuple[str, str] | None:
        """Kind and description, if the row is not an answer to this sample."""
        if "question_id" in row and str(row["question_id"]) != str(sample.question_id):
            return (
                "contradictory",
                f"{sample.key} has question_id {sample.question_id!r}, not {row['question_id']!r:.80}",
            )
        prompt = row.get("prompt")
        if prompt is None or prompt in _prompts(sample):
            return None
        kind = "to prompts of other questions" if prompt in self._prompts else "to prompts that this data has not"
        return kind, f"{prompt!r:.200} is not {sample.prompt!r:.200}"

    def pairs(self, wanted: Sequence[Sample], partial: bool) -> list[tuple[Sample, Prediction]]:
        """The wanted samples and their answers, once all rows are in.

        Raises:
            UserError: something does not fit.
        """
        found = [(sample, self._found[sample.key]) for sample in wanted if sample.key in self._found]
        if len(found) < len(wanted) and not partial:
            absent = [sample.key for sample in wanted if sample.key not in self._found]
            self._problems["missing"] = [key for key in absent if key not in self._misfits]
        problems = {kind: offenders for kind, offenders in self._problems.items() if offenders}
        if problems:
            raise UserError(f"{self._path}: {_complaint(problems, self._rows, len(wanted))}")
        if not found:
            raise UserError(f"{self._path}: holds no answers")
        return found


def _complaint(problems: Mapping[str, Sequence[str]], rows: int, questions: int) -> str:
    """All kinds of problems with their numbers, shares and first offenders, and the remedy."""

    def share(kind: str, count: int) -> str:
        total, name = (questions, "questions") if kind == "missing" else (rows, "rows")
        return f"{count / total:.1%} of {total} {name}"

    parts = [
        f"{len(offenders)} {kind} ({share(kind, len(offenders))}; {_first(offenders)})"
        for kind, offenders in problems.items()
    ]
    remedies = [remedy for kind, remedy in _REMEDIES.items() if kind in problems]
    if list(problems) == ["missing"]:
        remedies = ["evaluate score --partial scores what is there"]
    return "; ".join([f"answers {', '.join(parts)}", *remedies])


_REMEDIES = {
    "unknown": "is the file of another benchmark or split?",
    "contradictory": "were keys or question ids edited?",
    "to prompts of other questions": "is the file shuffled, or are its ids of another edition?",
    "to prompts that this data has not": "was it answered on another edition of the data, or with another prompt?",
}


def _check_row(row: dict[str, Any], where: str) -> None:
    """Raise UserError unless the row's own fields are those of an answer."""
    take(row, "text", str, where)
    if "key" in row:
        take(row, "key", str, where)
    elif "question_id" not in row:
        raise UserError(f"{where}: has neither 'key' nor 'question_id'")
    if "question_id" in row:
        take(row, "question_id", (int, str), where)
    if row.get("prompt") is not None:
        take(row, "prompt", str, where)
    if row.get("round_id", 0) != 0:
        raise UserError(
            f"{where}: 'round_id' is {row['round_id']!r}: LLaVA's --all-rounds asked every question once a rotation of "
            "its options; only one answer a question is scored here. Answer again without --all-rounds "
            "(MMBench's files hold the rotations as rows already)"
        )


def _prompts(sample: Sample) -> tuple[str, ...]:
    """The prompts that a row of this sample may name."""
    return (sample.prompt,) if sample.llava_prompt is None else (sample.prompt, sample.llava_prompt)


def _first(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def data_sha256(samples: Sequence[Sample]) -> str:
    """Digest of all keys, prompts and targets: tells editions of a benchmark's data apart."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.key, sample.prompt, sample.targets]).encode())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file or nothing, and make its folder.

    Raises:
        UserError: it cannot be written.
    """
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
