"""The embedded CME on disk: a folder with both splits of the eleven tasks, made whole or not at all.

In: folder, seed, counts. Out: ``train/<task>/…``, ``eval/<task>/…`` and ``world.json``, which says from what they were
made; it is written last, so where it is, everything is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

from .layouts import LAYOUTS
from .splits import splits

STAMP = "world.json"


@dataclass(frozen=True)
class Plan:
    """What decides every byte: the seed, and rows of each task in the two splits."""

    seed: int = 0
    train: int = 350
    test: int = 120


def fingerprint() -> str:
    """Of the generators' code: other code, other data."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def stamp(plan: Plan) -> str:
    """What ``world.json`` says of a folder made by this plan and this code."""
    return json.dumps({"plan": asdict(plan), "generators": fingerprint()}, indent=1) + "\n"


def is_built(out: Path, plan: Plan) -> bool:
    """Whether the folder holds just that, whole."""
    written = out / STAMP
    return written.is_file() and written.read_text(encoding="utf-8") == stamp(plan)


def build(out: Path, plan: Plan) -> bool:
    """Make the folder's two splits anew, unless they are there as planned. Other files in it stay.

    Returns:
        Whether anything was made.

    Raises:
        UserError: the folder cannot be written, or the world has fewer different rows than asked for.
    """
    if is_built(out, plan):
        return False
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / STAMP).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as scratch:
            _write(Path(scratch), plan)
            for split in ("train", "eval"):
                if (out / split).exists():
                    shutil.rmtree(out / split)
                (Path(scratch) / split).rename(out / split)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    write_atomically(out / STAMP, stamp(plan))
    return True


def _write(folder: Path, plan: Plan) -> None:
    for name, (train, test) in splits(plan.seed, plan.train, plan.test).items():
        for split, rows in (("train", train), ("eval", test)):
            for file, content in LAYOUTS[name](rows, split == "train"):
                path = folder / split / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8", newline="")
