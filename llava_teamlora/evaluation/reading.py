"""Official files as they lie on users' disks: JSON, JSON lines, and fields that are what they must be.

Every error names the file, the line or index and the field. Text is UTF-8 whatever the locale says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llava_teamlora.errors import UserError

T = TypeVar("T")

EVAL_ROOT = Path("playground/data/eval")
"""LLaVA's folder of benchmarks; ``--data_root`` names another."""


def read_text(path: Path) -> str:
    """A whole text file.

    Raises:
        UserError: missing, unreadable or not UTF-8.
    """
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        UserError: missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def decode(content: bytes, path: Path, remedy: str = "save it as UTF-8") -> str:
    """Bytes of a file as text; a byte order mark is dropped.

    Raises:
        UserError: not UTF-8.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {remedy}") from error


def read_json(path: Path) -> Any:
    """A JSON file, whatever it holds.

    Raises:
        UserError: missing, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: missing, or something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_json_list(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A JSON list of objects, each with its place (``file, index n``) for messages.

    Raises:
        UserError: missing, or something else.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a JSON list, found {type(content).__name__}")
    return [(where, expect_object(row, where)) for where, row in _placed(content, path)]


def read_json_rows(path: Path, field: str) -> list[tuple[str, dict[str, Any]]]:
    """The list of objects under a field of a JSON file's object, each with its place (``file, field[n]``).

    Raises:
        UserError: missing, or something else.
    """
    rows = take(read_json_object(path), field, list, str(path))
    places = (f"{path}, {field}[{index}]" for index in range(len(rows)))
    return [(where, expect_object(row, where)) for where, row in zip(places, rows, strict=True)]


def _placed(content: list[Any], path: Path) -> list[tuple[str, Any]]:
    return [(f"{path}, index {index}", row) for index, row in enumerate(content)]


def read_json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """JSON lines of objects, each with its place (``file, line n``) for messages; empty lines are passed over.

    Raises:
        UserError: missing, or something else.
    """
    return list(stream_json_lines(path))


def stream_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As :func:`read_json_lines`, one by one: of half a million rows only the one at hand is held.

    Raises:
        UserError: missing, or something else.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        # Lines of bytes: a line separator inside a string, U+2028 say, ends no line of JSON.
        for number, line in enumerate(file, start=1):
            try:
                row = _json_line(line, path, number)
            except UserError as error:
                if line.endswith(b"\n"):
                    raise
                raise UserError(f"{error}; the file ends there: was it written to its end?") from error
            if row is not None:
                yield row


def _json_line(line: bytes, path: Path, number: int) -> tuple[str, dict[str, Any]] | None:
    if not line.strip():
        return None
    where = f"{path}, line {number}"
    try:
        text = line.decode("utf-8").removeprefix("\ufeff")
        return where, expect_object(json.loads(text), where)
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start} of the line"
        raise UserError(f"{where}: is not UTF-8 text ({problem}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON ({error.msg} at column {error.colno})") from error


def parse_json_lines(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """As :func:`read_json_lines`, of text that is read already.

    Raises:
        UserError: a line is broken or no object.
    """
    lines = (_json_line(line.encode("utf-8"), path, number) for number, line in enumerate(text.split("\n"), start=1))
    return [row for row in lines if row is not None]


def expect_object(row: Any, where: str) -> dict[str, Any]:
    """The row itself, if it is an object.

    Raises:
        UserError: it is not.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def take(row: Mapping[str, Any], field: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    """A field of the right type.

    Args:
        row: the object.
        field: its name.
        kind: accepted type or types.
        where: place, for the message.

    Raises:
        UserError: absent or of another type.
    """
    if field not in row:
        raise UserError(f"{where}: has no field {field!r} (it has {', '.join(map(repr, row)) or 'none'})")
    value = row[field]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(known.__name__ for known in kinds)
        raise UserError(f"{where}: {field!r} must be {names}, found {value!r:.80}")
    return value
