"""Rows of the public files as people have them: JSON lines, a JSON list, parquet, TSV and CSV; each row with its place.

All of them stream. Parquet is read by pyarrow, an extra. A column of classes, which the hub keeps as numbers beside a
list of names, comes out as names; a number beyond them (-1, a label that is not told) stays.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.streaming import stream_list
from llava_teamlora.evaluation.reading import decode, decode_line, no_text, numbered_lines, stream_json_lines

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
Row = tuple[str, dict[str, Any]]

_BATCH = 1024


def rows(path: Path, *, columns: Sequence[str] = (), quoted: bool = True, separator: str = "") -> Iterator[Row]:
    """Stream a file's rows; its ending tells its form.

    Args:
        path: ``.jsonl``, ``.json`` (a list), ``.parquet``, ``.tsv`` or ``.csv``.
        columns: names of the columns of a table without a header; else its first line names them.
        quoted: whether quotes in a table stand around a field; else they are text, and no field holds a tab.
        separator: what stands between a table's fields, where its ending tells something else.

    Yields:
        A row's place (``file, line n``, or ``file, row[n]`` from 0) and its fields. Those of a table are texts.

    Raises:
        UserError: missing, broken, or of another form.
    """
    match path.suffix:
        case ".jsonl":
            yield from stream_json_lines(path)
        case ".json":
            yield from stream_list(path)
        case ".parquet":
            yield from _parquet(path)
        case ".tsv" | ".csv":
            separator = separator or ("\t" if path.suffix == ".tsv" else ",")
            split = _quoted(path, separator) if quoted else _plain(path, separator)
            yield from _named(split, path, columns)
        case _:
            raise UserError(
                f"{path}: rows are read from .jsonl, .json, .parquet, .tsv and .csv; give it the ending of its form"
            )


def not_empty(found: Iterable[T], path: Path) -> Iterator[T]:
    """What was found in a file, which must be something.

    Raises:
        UserError: nothing was.
    """
    there = False
    for one in found:
        there = True
        yield one
    if not there:
        raise UserError(f"{path}: holds no rows; was it downloaded, or unpacked, whole?")


Fields = tuple[int, list[str]]


def _named(table: Iterable[Fields], path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Lists of fields -> objects. An empty line is none."""
    names = list(columns)
    for line, fields in table:
        if not names:
            names = fields
            if len(set(names)) < len(names):
                raise UserError(f"{path}, line {line}: the header names a column twice ({', '.join(names)})")
            continue
        if len(fields) != len(names):
            raise UserError(
                f"{path}, line {line}: has {len(fields)} fields, expected {len(names)} ({', '.join(names)}); "
                "is the file whole, and of the right edition?"
            )
        yield f"{path}, line {line}", dict(zip(names, fields, strict=True))


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends; the first tells what is no text."""
    for number, line in numbered_lines(path):
        yield decode(line, path) if number == 1 else decode_line(line, f"{path}, line {number}")


def _quoted(path: Path, separator: str) -> Iterator[Fields]:
    reader = csv.reader(_lines(path), delimiter=separator)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: is no row of a table ({error})") from error


def _plain(path: Path, separator: str) -> Iterator[Fields]:
    """Lines split at separators; a row that a line feed has torn is put together again, until it has all its fields.

    QQP's train.tsv has such rows; those who split it by lines drop them. The last field, a label, is never torn.
    """
    width, start, fields = 0, 0, list[str]()
    for number, line in enumerate(_lines(path), start=1):
        found = line.rstrip("\r\n").split(separator)
        if fields:
            found = [*fields[:-1], f"{fields[-1].rstrip()} {found[0].lstrip()}".strip(), *found[1:]]
        elif found == [""]:
            continue
        else:
            start = number
        if len(found) < width:
            fields = found
            continue
        yield start, found
        width, fields = width or len(found), []
    if fields:
        yield start, fields


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{path}: parquet is read with pyarrow; pip install 'llava-teamlora[cme]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = _class_names(file.schema_arrow, path)
            index = 0
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    for column, classes in names.items():
                        row[column] = _class_name(row[column], classes)
                    yield f"{path}, row[{index}]", row
                    index += 1
    except (OSError, pyarrow.ArrowException) as error:
        if other := _beginning(path):
            raise UserError(f"{path}: {other}") from error
        raise UserError(f"{path}: is not parquet that can be read ({error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: holds text that is not UTF-8 ({error.reason}); get it anew") from error


def _beginning(path: Path) -> str | None:
    """What a file is by its first bytes, if they tell."""
    try:
        with path.open("rb") as file:
            return no_text(file.read(64))
    except OSError:
        return None


def _class_names(schema: pyarrow.Schema, path: Path) -> dict[str, list[str]]:
    """Names of the classes in each column of classes, as the library datasets writes them into a file's metadata."""
    content = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(content)["info"]["features"] if content else {}
        # A column of lists of objects is a list there.
        plain = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
        found = {name: kind["names"] for name, kind in plain.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its metadata of the library datasets cannot be read ({error!r})") from error
    return {name: names for name, names in found.items() if name in schema.names}


def _class_name(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
