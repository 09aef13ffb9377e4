"""What a program that dies leaves behind: seen, or brought about, at every change that it makes to a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_watched: tuple[str, Callable[[], None]] | None = None
_installed = False


def _changed(event: str, args: tuple[Any, ...]) -> str | None:
    """The path that an audit event is about to change; None for any other event."""
    if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
        writes = any(letter in (args[1] or "") for letter in "wax+") or bool(args[2] and args[2] & _WRITING)
        return os.fsdecode(args[0]) if writes else None
    return os.fsdecode(args[0]) if event in _CHANGES and not isinstance(args[0], int) else None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    global _watched
    if _watched is None or (path := _changed(event, args)) is None:
        return
    folder, see = _watched
    if os.path.abspath(path).startswith(folder):
        former, _watched = _watched, None  # what `see` does is not watched
        try:
            see()
        finally:
            _watched = former


@contextmanager
def watching(folder: Path, see: Callable[[], None]) -> Iterator[None]:
    """Call ``see`` before each change of a file, a folder or a name below ``folder``.

    Python's own changes are seen, those of libraries in other languages (the content of a weights file) at the next
    change after them.
    """
    global _watched, _installed
    if not _installed:
        sys.addaudithook(_hook)  # for good: Python has no way to take it out
        _installed = True
    _watched = (os.path.abspath(folder), see)
    try:
        yield
    finally:
        _watched = None
