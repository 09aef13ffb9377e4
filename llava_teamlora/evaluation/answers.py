"""Answers files on disk: LLaVA's JSON lines plus one field, ``key``, that is unique a row.

A row: ``{question_id, prompt, text, answer_id, model_id, metadata, key}``. LLaVA's own scripts read these files;
theirs, which lack the key, are joined by their question ids, and by the prompt where an id is that of several rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import stream_json_lines, take
from llava_teamlora.evaluation.types import Prediction, Sample
from llava_teamlora.files import encoded, write_atomically


def model_id_of(path: str) -> str:
    """What LLaVA calls a model in its answers: the last folder's name, of a checkpoint its run's name before it.

    So answers say the same wherever the model lies and however its path was typed. Source: LLaVA's
    ``get_model_name_from_path``.
    """
    folder = Path(path)
    *_, run, last = ("", "", *(folder.resolve() if folder.is_dir() else folder).parts)
    return f"{run}_{last}" if last.startswith("checkpoint-") and run else last


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


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as it stands in a file of JSON lines."""
    return encoded(json.dumps(row, ensure_ascii=False) + "\n")


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows in one write.

    Raises:
        UserError: the file cannot be written to.
    """
    content = b"".join(map(line_of, rows))
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def read_answers(
    path: Path, samples: Sequence[Sample], *, limit: int | None = None, partial: bool = False
) -> list[tuple[Sample, Prediction]]:
    """Each sample with its one answer, in the samples' order; the order of the file is of no account.

    Rows of ours are found by ``key``; LLaVA's, which have none, by question id, by question id and prompt where the ids
    repeat (MME, TextVQA), and by their order where both do (SEED-Bench). Whatever prompt a row names must be the
    sample's.

    Args:
        path: JSON lines, ours or LLaVA's (chunks merged or not).
        samples: all questions of the benchmark.
        limit: take only the first so many of them; answers to the others are let be.
        partial: let answers be missing.

    Raises:
        UserError: no such file, a broken row; or duplicate, unknown, missing, shuffled answers or those of another
            edition, with their numbers and the first of each.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.jsonl") if not file.name.endswith(".rows.jsonl"))
        remedy = f"name one of its files: {_first(inside, 8)}" if inside else "it holds no *.jsonl"
        raise UserError(f"{path}: is a folder, not an answers file (--answers); {remedy}")
    if not path.is_file():
        raise UserError(f"{path}: no such answers file (--answers); make one with llava-teamlora evaluate predict")
    joining = _Joining(path, samples)
    for where, row in stream_json_lines(path):
        joining.add(row, where)
    if not joining.rows:
        raise UserError(f"{path}: holds no answers, it has no line that is not empty; predict again")
    return joining.pairs(samples[:limit], partial)


class _Joining:
    """Finds the question of each row, and remembers what does not fit."""

    def __init__(self, path: Path, samples: Sequence[Sample]) -> None:
        self._path = path
        self._samples = samples
        self._by_key = {sample.key: sample for sample in samples}
        if len(self._by_key) < len(samples):
            raise ValueError(f"{len(samples) - len(self._by_key)} samples have the key of another")
        self.rows = 0
        self._found: dict[str, Prediction] = {}
        self._twins: Counter[tuple[str, ...]] = Counter()  # answers so far to questions that nothing tells apart
        self._misfits: set[str] = set()  # keys of samples that have an answer, but not to their prompt
        self._repeated = 0  # duplicates that say what the first answer says
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
        self.rows += 1
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
            self._repeated += row["text"] == earlier.text
        else:
            self._found[candidates[0].key] = Prediction(candidates[0].key, row["text"], where, _asked(row))

    def _candidates(self, row: dict[str, Any], where: str) -> list[Sample]:
        """The row's sample; several if they share its question id and none has its prompt.

        Raises:
            UserError: the row does not say enough.
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
            # SEED-Bench has one id twice: LLaVA asks in the file's order, so the n-th answer is to the n-th question.
            twins = tuple(sample.key for sample in same)
            self._twins[twins] += 1
            same = [same[min(self._twins[twins], len(twins)) - 1]]
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
        for twins, count in self._twins.items():
            if partial and count < len(twins):
                raise UserError(
                    f"{self._path}: question_id and prompt of {_first(twins)} are the same, and only {count} of these "
                    f"{len(twins)} questions are answered; add a 'key' to the rows, which says which"
                )
        found = [(sample, self._found[sample.key]) for sample in wanted if sample.key in self._found]
        if len(found) < len(wanted) and not partial:
            absent = [sample.key for sample in wanted if sample.key not in self._found]
            self._problems["missing"] = [key for key in absent if key not in self._misfits]
        problems = {kind: offenders for kind, offenders in self._problems.items() if offenders}
        if problems:
            raise UserError(f"{self._path}: {_complaint(problems, self.rows, len(wanted), self._repeated)}")
        if not found:
            raise UserError(f"{self._path}: holds no answers")
        return found


def _complaint(problems: Mapping[str, Sequence[str]], rows: int, questions: int, repeated: int) -> str:
    """All kinds of problems with their numbers, shares and first offenders, and the remedy.

    Args:
        problems: kind -> offenders.
        rows: of the file.
        questions: that are to be answered.
        repeated: how many of the duplicates say the same as the first answer.
    """

    def share(kind: str, count: int) -> str:
        total, name = (questions, "questions") if kind == "missing" else (rows, "rows")
        return f"{count / total:.1%} of {total} {name}"

    parts = [
        f"{len(offenders)} {kind} ({share(kind, len(offenders))}; {_first(offenders)})"
        for kind, offenders in problems.items()
    ]
    remedies = [remedy for kind, remedy in _REMEDIES.items() if kind in problems]
    if "duplicate" in problems:
        count = len(problems["duplicate"])
        remedies.append(
            f"{repeated} of the {count} duplicates say the same as the first answer: "
            + (
                "were chunks merged twice, or appended to an older file?"
                if repeated == count
                else "are there two runs?"
            )
            + " Keep one answer a question"
        )
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
    """Digest of all that decides a score: tells editions of a benchmark's data apart."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.key, sample.prompt, sample.targets, sample.group, sample.choices]).encode())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file or nothing, and make its folder.

    Raises:
        UserError: it cannot be written.
    """
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _asked(row: Mapping[str, Any]) -> str | None:
    """What was asked in the prompt's place, where a row of ours says so."""
    metadata = row.get("metadata")
    asked = metadata.get("asked") if isinstance(metadata, dict) else None
    return asked if isinstance(asked, str) else None
