"""Answers on disk while a model is at work: ``predictions.rank-N.jsonl``, in the end ``predictions.jsonl``.

Every process appends whole lines to a file of its own and never changes one, so that a kill at any moment costs at most
the line being written. When all is answered the files become one, in the benchmark's order (LLaVA's own
``eval_pope.py`` joins by position).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import line_of
from llava_teamlora.evaluation.companions import PREDICTIONS
from llava_teamlora.evaluation.reading import decode, expect_object, numbered_lines
from llava_teamlora.evaluation.types import Sample
from llava_teamlora.files import write_atomically

T = TypeVar("T")

_LOCK = ".predictions.lock"
_SYNC_EVERY_S = 30.0
"""A killed process loses nothing that was written; a machine that loses its power loses at most this much work."""


def journal_path(folder: Path, rank: int) -> Path:
    """Where the process of that number writes."""
    return folder / f"predictions.rank-{rank}.jsonl"


def journals(folder: Path) -> list[Path]:
    """Those that are there, of however many processes."""
    return sorted(folder.glob("predictions.rank-*.jsonl"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder of answers to one run, from before anything in it is dropped until all is written.

    Raises:
        UserError: another run has it, or it cannot be written to.
    """
    path = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        if not _lock(file, folder):
            print(
                f"{folder}: its file system has no locks; see to it that no other run writes there meanwhile",
                file=sys.stderr,
            )
        elif not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise _busy(folder)  # its owner took it away just now, so others may have made a new one
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(file: IO[bytes], where: Path) -> bool:
    """Take a file until it is closed, however the process ends; False where the file system has no locks.

    Raises:
        UserError: another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(where) from error
    except OSError:
        return False
    return True


def _busy(where: Path) -> UserError:
    return UserError(f"{where}: another process is at work there; wait for it, or choose another --out")


class Journal:
    """One process's file, open for appending. See :func:`open_journal`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self._synced = time.monotonic()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, so that they outlive this process.

        Raises:
            UserError: a full disk, say. What was written before stays good.
        """
        left = memoryview(b"".join(map(line_of, rows)))
        with self._explained():
            while left:  # a disk about to be full takes a part
                left = left[self._file.write(left) :]
        if time.monotonic() - self._synced > _SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Bring the file to the disk.

        Raises:
            UserError: as :meth:`append`.
        """
        with self._explained():
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); the answers in it are kept: make room and "
                "start again, it goes on from there"
            ) from error


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a process's file at its end; a last line torn by a kill is cut off.

    Raises:
        UserError: another process is writing to it, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        _lock(file, path)
        file.truncate(file.seek(_whole_lines(file)))
        journal = Journal(path, file)
        yield journal
        journal.sync()


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to and with the last end of a line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 16))
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def collect(folder: Path) -> dict[str, bytes]:
    """Key -> line, of ``predictions.jsonl`` and what processes have written since. A torn last line is passed over.

    Raises:
        UserError: a line is broken or has no key, or two answer the same question differently.
    """
    return _collect(folder, lambda line: line)


def answered(folder: Path) -> set[str]:
    """Keys of what :func:`collect` finds; the lines, of hundreds of thousands of questions, are not held.

    Raises:
        UserError: as :func:`collect`.
    """
    return set(_collect(folder, hash))


def _collect(folder: Path, held: Callable[[bytes], T]) -> dict[str, T]:
    """Key -> what is to be held of its line, which tells two lines apart."""
    found: dict[str, T] = {}
    for path in (folder / PREDICTIONS, *journals(folder)):
        if not path.exists():
            continue
        for number, (key, line) in enumerate(_keyed(path), start=1):
            if found.setdefault(key, kept := held(line)) != kept:
                raise UserError(
                    f"{path}, line {number}: {key!r} has been answered before, and otherwise; use --overwrite to "
                    f"drop the answers in {folder}"
                )
    return found


def _keyed(path: Path) -> Iterator[tuple[str, bytes]]:
    """Key and line, of the lines that are whole."""
    for number, line in numbered_lines(path):
        if not line.endswith(b"\n"):
            return
        yield _key(line, f"{path}, line {number}"), line


def _key(line: bytes, where: str) -> str:
    """Of a row of ours.

    Raises:
        UserError: it is none.
    """
    text = decode(line, Path(where), "use --overwrite to drop the answers")
    try:
        row = expect_object(json.loads(text), where)
    except ValueError as error:
        raise UserError(f"{where}: broken JSON ({error}); use --overwrite to drop the answers") from error
    if not isinstance(row.get("key"), str):
        raise UserError(f"{where}: has no 'key', so it cannot be continued; use --overwrite")
    return row["key"]


def merge(folder: Path, samples: Sequence[Sample], asked: int) -> None:
    """Make ``predictions.jsonl`` of all that is there, in the samples' order, once it is complete.

    Args:
        folder: of the answers.
        samples: all of the benchmark's.
        asked: how many of them, from the first, must be answered.

    Raises:
        UserError: answers are missing or unknown, with their number; nothing is changed then.
    """
    lines = collect(folder)
    missing = [sample.key for sample in samples[:asked] if sample.key not in lines]
    unknown = lines.keys() - {sample.key for sample in samples}
    if missing or unknown:
        counts = [
            f"{len(keys)} {kind} (first: {min(keys)})"
            for keys, kind in ((missing, "missing"), (sorted(unknown), "to questions the benchmark does not have"))
            if keys
        ]
        raise UserError(f"{folder}: of {asked} answers, {', '.join(counts)}; start it again to go on")
    written = journals(folder)
    if written:
        write_atomically(folder / PREDICTIONS, b"".join(lines[s.key] for s in samples if s.key in lines))
        for path in written:
            path.unlink(missing_ok=True)
