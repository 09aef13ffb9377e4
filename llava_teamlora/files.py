"""Writing files whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_teamlora.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a whole text file or nothing, and make its folder: a reader never sees half of it.

    Raises:
        UserError: it cannot be written: no rights, a file in the way, a full disk.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


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
