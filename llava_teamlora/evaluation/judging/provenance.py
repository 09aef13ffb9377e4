"""What stands beside a grade file: who graded which answers, and by which prompt. Official files do not say.

``grades.json`` -> ``grades.manifest.json``. Scores name the judge from it, and refuse grades of other answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.companions import is_ours
from llava_teamlora.evaluation.reading import read_bytes, read_json_object, stream_json_lines, take
from llava_teamlora.files import beside

OFFICIAL = "official prompt"
"""How a manifest calls the prompt that the benchmark's authors published."""


@dataclass(frozen=True)
class Provenance:
    """Of one grade file.

    Attributes:
        judge: the judge's own name.
        prompt: ``official prompt``, ``own prompt``, or whose.
        zeros: grades that are 0 because the judge's reply could not be read.
        answers: digest of each graded answer, by sample key.
    """

    judge: str
    prompt: str
    zeros: int
    answers: Mapping[str, str]

    def label(self) -> str:
        """For a metric's name: the judge, and whatever sets its grades apart from the official tool's."""
        parts = [self.judge]
        if self.prompt != OFFICIAL:
            parts.append(self.prompt)
        if self.zeros:
            parts.append(f"{self.zeros} unreadable as 0")
        return ", ".join(parts)


def provenance_path(grades: Path) -> Path:
    """``grades.json`` -> ``grades.manifest.json``."""
    return beside(grades, ".manifest.json")


def read_provenance(grades: Path) -> Provenance | None:
    """What is known of a grade file; None where nothing lies beside it, as with an official tool's.

    Raises:
        UserError: the manifest is broken, or the grade file is not the one it was written for.
    """
    path = provenance_path(grades)
    if not path.is_file():
        return None
    content = read_json_object(path)
    judge, prompt = take(content, "judge", dict, str(path)), take(content, "prompt", dict, str(path))
    digests: dict[str, Any] = take(content, "answers_sha256", dict, str(path))
    if take(content, "grades_sha256", str, str(path)) != file_digest(grades):
        raise UserError(
            f"{grades}: was changed after {path.name} was written for it; grade anew, or remove {path.name} to take "
            "them for an official tool's grades, which do not tell whose answers they are of"
        )
    return Provenance(
        judge=take(judge, "name", str, f"{path}, judge"),
        prompt=take(prompt, "name", str, f"{path}, prompt"),
        zeros=len(take(content, "unreadable_as_zero", list, str(path))),
        answers={str(key): str(value) for key, value in digests.items()},
    )


def check_answer(known: Provenance | None, key: str, text: str, grades: Path) -> None:
    """Raise UserError if the grades are known to be of another answer than this one."""
    if known is not None and known.answers.get(key) != answer_digest(text):
        raise UserError(
            f"{grades}: was made for other answers than these ({key} differs, says {provenance_path(grades).name}); "
            "grade these with llava-teamlora evaluate grade"
        )


def untied(grades: Path, answers: Path) -> str | None:
    """Why nobody knows that the grades are of these answers; None where something ties them.

    Ours have a manifest, and are refused if they are of other answers. Official tools' are named after the model, and
    after ``_`` the judge: ``llava-v1.5-7b-lora_gpt-4.json`` is not of llava-v1.5-7b.

    Raises:
        UserError: a file is broken.
    """
    if provenance_path(grades).is_file():
        return None
    names = _names(answers)
    if any(grades.stem == name or grades.stem.startswith(f"{name}_") for name in names):
        return None
    called = f"the grade file is named after none of {', '.join(names)}" if names else "the answers do not say whose"
    return f"grades could not be tied to the answers: {called}, and no {provenance_path(grades).name} is beside it"


def _names(answers: Path) -> list[str]:
    """What a grade file of these answers may be named after: their file, the first row's model, a checkpoint's run."""
    found = [] if is_ours(answers) else [answers.stem]
    _, row = next(stream_json_lines(answers), ("", {}))
    parts = [part for part in str(row.get("model_id") or "").split("/") if part and not part.startswith("checkpoint-")]
    return list(dict.fromkeys([*found, *parts[-1:]]))


def answer_digest(text: str) -> str:
    """Of one answer's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Of a grade file's bytes.

    Raises:
        UserError: it cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def ungraded(name: str) -> UserError:
    """What to raise where a judged benchmark is scored without grades."""
    return UserError(
        f"{name}: a judge grades its answers; make grades with llava-teamlora evaluate grade {name} --answers FILE "
        "(--endpoint URL or --judge_path FOLDER), or take the official tool's, and give them as evaluate score "
        "--grades FILE"
    )
