"""Official files as they lie on users' disks: JSON, JSON lines, and fields that are what they must be.

Every error names the file, the line or index and the field. Text is UTF-8 whatever the locale says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from llava_teamlora.errors import UserError

T = TypeVar("T")

EVAL_ROOT = Path("playground/data/eval")
"""LLaVA's folder of benchmarks; ``--data_root`` names another."""


def data_folder(data_root: Path | None, name: str) -> Path:
    """A benchmark's own folder in the folder of benchmarks, which is LLaVA's unless named."""
    return (EVAL_ROOT if data_root is None else data_root) / name


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
    if other := no_text(content):
        raise UserError(f"{path}: {other}")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {remedy}") from error


def open_bytes(path: Path) -> BinaryIO:
    """A file to be read piece by piece.

    Raises:
        UserError: missing or unreadable.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Stream a file's lines with their ends, from number 1.

    Only a line feed ends one: U+2028 or a lone carriage return inside a text does not.

    Raises:
        UserError: missing or unreadable.
    """
    with open_bytes(path) as file:
        yield from enumerate(file, start=1)


def decode_line(line: bytes, where: str) -> str:
    """A line as text.

    Args:
        line: without or with its end.
        where: ``file, line n``.

    Raises:
        UserError: not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start} of the line"
        raise UserError(f"{where}: is not UTF-8 text ({problem}); save it as UTF-8") from error


_BEGINNINGS = {
    b"\x1f\x8b": "is packed (gzip); unpack it first",
    b"PK\x03\x04": "is packed (zip); unpack it first",
    b"BZh": "is packed (bzip2); unpack it first",
    b"\xfd7zXZ\x00": "is packed (xz); unpack it first",
    b"\x28\xb5\x2f\xfd": "is packed (zstd); unpack it first",
    b"version https://git-lfs": "is git-lfs's pointer to a file, not the file; git lfs pull gets that",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}


def no_text(content: bytes) -> str | None:
    """What a file is that begins so, and what to do with it; None if it may be UTF-8 text."""
    return next((kind for start, kind in _BEGINNINGS.items() if content.startswith(start)), None)


def read_json(path: Path) -> Any:
    """A JSON file, whatever it holds.

    Raises:
        UserError: missing, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # RecursionError: brackets in brackets in brackets
        raise UserError(f"{path}: is not JSON that can be read ({error})") from error


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
    for number, line in numbered_lines(path):
        try:
            row = _json_line(line, path, number)
        except UserError as error:
            raise _explained(error, path, line, number) from error
        if row is not None:
            yield row


def _explained(error: UserError, path: Path, line: bytes, number: int) -> UserError:
    """What is wrong with a broken line's whole file, if the line tells."""
    start = line.removeprefix(b"\xef\xbb\xbf").strip()
    if number == 1 and (other := no_text(line)):
        return UserError(f"{path}: {other}")
    if number == 1 and (start.startswith(b"[") or start == b"{"):
        return UserError(
            f"{path}: is one piece of JSON, not JSON lines; write one object a line, without brackets around them or "
            "commas between (of a list, jq -c '.[]' makes such lines)"
        )
    if not line.endswith(b"\n"):
        return UserError(f"{error}; the file ends there: was it written to its end?")
    return error


def _json_line(line: bytes, path: Path, number: int) -> tuple[str, dict[str, Any]] | None:
    if not line.strip():
        return None
    where = f"{path}, line {number}"
    text = decode_line(line, where).removeprefix("\ufeff")
    try:
        return where, expect_object(json.loads(text), where)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets in brackets
        raise UserError(f"{where}: JSON that cannot be read ({error})") from error


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
