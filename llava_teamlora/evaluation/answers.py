"""Answers files on disk: LLaVA's JSON lines plus one field, ``key``, that is unique a row.

A row: ``{question_id, prompt, text, answer_id, model_id, metadata, key}``. LLaVA's own scripts read these files;
theirs, which lack the key, are read by their question ids where those are unique.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import decode, parse_json_lines, read_bytes, read_json_lines
from llava_teamlora.evaluation.types import Prediction, Sample
from llava_teamlora.files import write_atomically


def answer_row(sample: Sample, text: str, model_id: str) -> dict[str, Any]:
    """One answer as LLaVA writes it. ``answer_id`` follows from model and key, so that files can be compared."""
    return {
        "question_id": sample.question_id,
        "prompt": sample.prompt,
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


def answered_keys(path: Path) -> set[str]:
    """Keys already in a file of ours; a last line torn by a kill is cut off.

    Raises:
        UserError: not UTF-8 text, a line in the middle is broken, or a row has no key. The file is then left alone.
    """
    if not path.exists():
        return set()
    whole = read_bytes(path)
    kept = whole[: whole.rfind(b"\n") + 1]
    rows = parse_json_lines(decode(kept, path, "use --overwrite to drop it"), path)
    keyless = next((where for where, row in rows if not isinstance(row.get("key"), str)), None)
    if keyless is not None:
        raise UserError(f"{keyless}: has no 'key', so it cannot be continued; use --overwrite")
    if len(kept) < len(whole):
        os.truncate(path, len(kept))
    return {row["key"] for _, row in rows}


def read_answers(path: Path, samples: Sequence[Sample]) -> list[Prediction]:
    """All rows of an answers file, with their keys.

    Raises:
        UserError: no such file, a broken line, or rows that cannot be told apart.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such answers file (--answers); make one with llava-teamlora evaluate predict")
    by_question = _keys_by_question(samples)
    return [_prediction(row, where, by_question) for where, row in read_json_lines(path)]


def _prediction(row: dict[str, Any], where: str, by_question: dict[str, str] | None) -> Prediction:
    if not isinstance(row.get("text"), str):
        raise UserError(f"{where}: 'text' must be a string, found {row.get('text')!r}")
    prompt = row.get("prompt") if isinstance(row.get("prompt"), str) else None
    if isinstance(row.get("key"), str):
        return Prediction(row["key"], row["text"], where, prompt)
    if by_question is None:
        raise UserError(f"{where}: has no 'key', and this benchmark's question ids are not unique")
    if "question_id" not in row:
        raise UserError(f"{where}: has neither 'key' nor 'question_id'")
    identity = str(row["question_id"])
    return Prediction(by_question.get(identity, f"question_id {identity}"), row["text"], where, prompt)


def _keys_by_question(samples: Sequence[Sample]) -> dict[str, str] | None:
    """Question id -> key, or None where ids repeat."""
    found = {str(sample.question_id): sample.key for sample in samples}
    return found if len(found) == len(samples) else None


def join(
    samples: Sequence[Sample], predictions: Sequence[Prediction], source: Path, partial: bool
) -> list[tuple[Sample, Prediction]]:
    """Put each sample and its one answer together, in the samples' order.

    Raises:
        UserError: duplicate, unknown or (unless ``partial``) missing answers, with counts and first offenders;
            or an answer to another prompt, as when the benchmark's data is of another edition.
    """
    known = {sample.key: sample for sample in samples}
    counts = Counter(prediction.key for prediction in predictions)
    problems = {
        "duplicate": [key for key, count in counts.items() if count > 1],
        "unknown": [key for key in counts if key not in known],
        "missing": [] if partial else [key for key in known if key not in counts],
    }
    found = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if found:
        hint = "; --partial scores what is there" if problems["missing"] and len(found) == 1 else ""
        raise UserError(f"{source}: {', '.join(found)} of {len(samples)} answers{hint}")
    other = [p for p in predictions if p.prompt is not None and p.prompt != known[p.key].prompt]
    if other:
        first = other[0]
        raise UserError(
            f"{source}: {len(other)} answers are to other prompts than this data's; {first.where}: "
            f"{first.prompt!r} is not {known[first.key].prompt!r}; is the data of another edition?"
        )
    answer = {prediction.key: prediction for prediction in predictions}
    joined = [(sample, answer[sample.key]) for sample in samples if sample.key in answer]
    if not joined:
        raise UserError(f"{source}: holds no answers")
    return joined


def _first(keys: Sequence[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (", …" if len(keys) > shown else "")


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file or nothing, and make its folder.

    Raises:
        UserError: it cannot be written.
    """
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
