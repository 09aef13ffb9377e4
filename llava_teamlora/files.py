"""Writing files whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import os
import tempfile
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
