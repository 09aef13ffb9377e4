"""Files that lie beside answers: the manifest that says whose they are, and where scores and grades go by default."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json
from llava_teamlora.files import beside

PREDICTIONS = "predictions.jsonl"
MANIFEST = "manifest.json"
MANIFEST_PARTS = ("benchmark", "model", "decoding")
_OURS = re.compile(rf"{re.escape(PREDICTIONS)}|predictions\.rank-\d+\.jsonl")


def is_ours(answers: Path) -> bool:
    """Whether answers have the name that ours have in their run's folder, whole or as one process's journal."""
    return _OURS.fullmatch(answers.name) is not None


def read_manifest(answers: Path) -> dict[str, Any] | None:
    """What made the answers, by the ``manifest.json`` beside them; None where there is none.

    It speaks of the run's own answers alone: LLaVA keeps the answers of many models in one folder.

    A file of that name may be anybody's: one without any part of ours is passed over, and that is said.

    Raises:
        UserError: it cannot be read as JSON, so that nobody knows whose it is.
    """
    path = answers.parent / MANIFEST
    if not is_ours(answers) or not path.is_file():
        return None
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; move it away if it does not say who gave the answers beside it") from error
    if isinstance(content, dict) and any(isinstance(content.get(part), dict) for part in MANIFEST_PARTS):
        return content
    print(
        f"{path}: is passed over, it does not say who gave the answers beside it (none of {', '.join(MANIFEST_PARTS)})",
        file=sys.stderr,
    )
    return None


def default_out(answers: Path, name: str) -> Path:
    """``scores.json`` beside ``predictions.jsonl``, but ``m.scores.json`` beside ``m.jsonl``.

    LLaVA keeps the answers of all models in one folder: they must not share one file of scores.
    """
    return answers.with_name(name) if answers.name == PREDICTIONS else beside(answers, f".{name}")
