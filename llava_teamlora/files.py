"""Writing files whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_teamlora.errors import UserError


def encoded(text: str) -> bytes:
    r"""As UTF-8; half of a pair of surrogates, which a model may say, as ``\udXXX``: so JSON escapes it."""
    return text.encode("utf-8", "backslashreplace")


def beside(path: Path, ending: str) -> Path:
    """Another file of the same name: ``scores.json``, ``.rows.jsonl`` -> ``scores.rows.jsonl``.

    Only ``.json`` and ``.jsonl`` are endings: what follows the last dot of ``llava-v1.5-7b`` is part of its name.
    """
    stem = path.stem if path.suffix in (".json", ".jsonl") else path.name
    return path.with_name(stem + ending)


def write_atomically(path: Path, content: str | bytes | Iterable[str | bytes]) -> None:
    """Write a whole file or nothing, and make its folder: a reader never sees half of it.

    Args:
        path: the file.
        content: all of it, or piece by piece what is too long to be held at once.

    Raises:
        UserError: it cannot be written: no rights, a file in the way, a full disk.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            for piece in [content] if isinstance(content, (str, bytes)) else content:
                file.write(encoded(piece) if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def sync_folder(folder: Path, *, deep: bool = True) -> None:
    """Bring a folder's files to the disk: what is renamed, or named by another file, next must outlive a power cut.

    Args:
        folder: with its files.
        deep: also with the folders in it.

    Raises:
        OSError: the disk is full or failing.
    """
    for path in folder.rglob("*") if deep else folder.iterdir():
        if path.is_file() or (deep and path.is_dir()):
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Bring one file, or a folder's list of names, to the disk.

    Raises:
        OSError: the disk is full or failing.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears with all its files or not at all.

    Yields:
        A folder aside to write into; on leaving the context it becomes `path`, after an error it is removed.

    Raises:
        UserError: `path` is a file or holds something already, or it cannot be written.
    """
    refuse_used_folder(path)
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield aside
        os.chmod(aside, 0o755)
        sync_folder(aside)
        os.replace(aside, path)  # an empty folder may lie there
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def refuse_used_folder(path: Path) -> None:
    """Raise UserError unless `path` is free or an empty folder."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise UserError(f"{path}: is there already; choose another --output, nothing is overwritten")
