"""MME's official release: its subtasks, the truths in their text files, and where the pictures lie.

``MME_Benchmark_release_version/<subtask>/`` holds text files, one a picture, with ``question<tab>Yes|No`` lines; they
lie beside the pictures, or both in folders of their own, ``questions_answers_YN`` and ``images``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_text

PERCEPTION = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION = tuple("commonsense_reasoning numerical_calculation text_translation code_reasoning".split())
SUBTASKS = PERCEPTION + COGNITION
RELEASE = "MME_Benchmark_release_version"

_OFFICIAL_END = "Please answer yes or no."
SOURCE = "BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation), on request"


@dataclass(frozen=True)
class Truth:
    """One line of an official text file.

    Attributes:
        question: as it stands there.
        answer: ``yes`` or ``no``.
    """

    question: str
    answer: str


Truths = dict[tuple[str, str, str], Truth]
"""By subtask, the picture's name without its ending, and the bare question."""


def read_truths(release: Path) -> Truths:
    """All 14 subtasks; pictures by name, questions in the file's order."""
    if not release.is_dir():
        raise UserError(f"{release}: no such folder; it holds MME's official release ({SOURCE})")
    found: Truths = {}
    for subtask in SUBTASKS:
        folder = folders(release, subtask)[1]
        # Names that begin with a dot are a file system's own notes, as macOS leaves them in archives.
        paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
        if not paths:
            raise UserError(f"{folder}: holds no text files with the truth of {subtask} ({SOURCE})")
        for path in paths:
            found |= {(subtask, path.stem, bare(truth.question)): truth for truth in _read_pair(path)}
    return found


def _read_pair(path: Path) -> Iterator[Truth]:
    """The two questions of a picture."""
    asked = set()
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        question, tab, answer = line.strip().partition("\t")
        if not tab or answer.lower() not in ("yes", "no"):
            raise UserError(f"{where}: expected a question, a tab and Yes or No, found {line!r:.120}")
        if bare(question) in asked:
            raise UserError(f"{where}: asks the same question again")
        asked.add(bare(question))
        yield Truth(question, answer.lower())
    if len(asked) != 2:
        raise UserError(f"{path}: has {len(asked)} questions; a picture of MME has two")


def folders(release: Path, subtask: str) -> tuple[Path, Path]:
    """Pictures and text files of a subtask, in either layout of the release."""
    base = release / subtask
    nested = (base / "questions_answers_YN").is_dir()
    return (base / "images", base / "questions_answers_YN") if nested else (base, base)


def bare(question: str) -> str:
    """Without the benchmark's request, which stands one or two spaces behind the question."""
    return question.replace(_OFFICIAL_END, "").strip()


def picture_names(folder: Path) -> dict[str, str]:
    """Name without ending -> name.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it holds pictures of MME's official release ({SOURCE})")
    endings = (".jpg", ".jpeg", ".png")
    return {path.stem: path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in endings}
