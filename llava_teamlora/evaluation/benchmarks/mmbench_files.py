"""MMBench's two file formats: the TSV with pictures inside that it comes in, and the XLSX that its server takes."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.types import EncodedPicture
from llava_teamlora.files import write_atomically

# An image cell of at most so many characters names the row that has the picture (VLMEvalKit's ImageBaseDataset).
_LONGEST_REFERENCE = 64
_LONGEST_FIELD = 2**31 - 1
_LONGEST_CELL = 32767
_EPOCH = (1980, 1, 1, 0, 0, 0)


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a TSV with a head, each with its place. Fields may be quoted and hold line ends; blank lines are no rows.

    Differs from LLaVA's ``pandas.read_table``: every field is the text that stands there. pandas makes missing values
    of ``None``, ``NA``, ``null`` and the like, and so of options that read so.

    Args:
        path: the file.
        columns: those that must be there.

    Raises:
        UserError: unreadable, no such columns, or a row with more or fewer fields than the head.
    """
    # Only ever raised: a picture is longer than the csv module's usual 131072 characters, and the limit is global.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            head = next(reader, [])
            _check_head(head, columns, path)
            start = reader.line_num + 1
            for fields in reader:
                where, start = f"{path}, line {start}", reader.line_num + 1
                if len(fields) == len(head):
                    yield where, dict(zip(head, fields, strict=True))
                elif fields:
                    raise UserError(
                        f"{where}: has {len(fields)} fields, but the head {len(head)}; is the download complete, "
                        "and saved by nothing that drops tabs or quotes?"
                    )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is no TSV ({error})") from error


def _check_head(head: Sequence[str], columns: Sequence[str], path: Path) -> None:
    absent = [column for column in columns if column not in head]
    if absent:
        raise UserError(
            f"{path}: has no column {', '.join(map(repr, absent))} (it has {', '.join(map(repr, head)) or 'none'}); "
            "is it MMBench's TSV of this split?"
        )


class Pictures:
    """The picture of each row; equal ones, and those that a row takes from another, are one object."""

    def __init__(self) -> None:
        self._by_content: dict[str, EncodedPicture] = {}
        self._by_index: dict[str, EncodedPicture] = {}

    def add(self, index: str, cell: str, where: str) -> str:
        """Take in a row's image cell; returns the index of the row that has the picture."""
        if len(cell) <= _LONGEST_REFERENCE:
            return cell.strip()
        self._by_index[index] = self._by_content.setdefault(cell, EncodedPicture(where, cell))
        return index

    def find(self, owner: str, where: str) -> EncodedPicture:
        """A row's picture, once all rows are in.

        Args:
            owner: what :meth:`add` returned for the row.
            where: the row's place.

        Raises:
            UserError: there is no such row, or it has no picture itself.
        """
        if owner not in self._by_index:
            kind = f"names row {owner!r}, which has no picture itself" if owner else "is empty"
            raise UserError(f"{where}: 'image' {kind}; it must be a picture in base64 or the index of a row with one")
        return self._by_index[owner]


def write_sheet(path: Path, head: Sequence[str], rows: Sequence[Sequence[str | int | None]]) -> None:
    """One sheet, atomically; the same rows give the same bytes.

    Raises:
        UserError: openpyxl is not installed, a cell is too long for the format or holds control characters, or the file
            cannot be written.
    """
    try:
        from openpyxl import Workbook
    except ImportError as error:
        raise UserError("writing .xlsx needs openpyxl: pip install 'llava-teamlora[eval]'") from error
    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = "Sheet1"
    for number, row in enumerate((head, *rows), start=1):
        for column, (name, value) in enumerate(zip(head, row, strict=True), start=1):
            _fill(sheet.cell(number, column), value, f"{path}, row {number}, {name}")
    buffer = io.BytesIO()
    book.save(buffer)
    write_atomically(path, _without_dates(buffer.getvalue()))


def _fill(cell: Any, value: str | int | None, where: str) -> None:
    """Put just this into a cell.

    Raises:
        UserError: no cell can hold it.
    """
    from openpyxl.utils.exceptions import IllegalCharacterError

    if isinstance(value, str) and len(value) > _LONGEST_CELL:
        raise UserError(
            f"{where}: {len(value)} characters, but an .xlsx cell holds {_LONGEST_CELL}; shorten the answer"
        )
    try:
        cell.value = value
    except IllegalCharacterError as error:
        raise UserError(f"{where}: control characters do not fit into an .xlsx cell; edit {value!r:.80}") from error
    if isinstance(value, str):
        # Differs from LLaVA's converter: text that begins with "=" stays text; there it becomes a formula.
        cell.data_type = "s"


def _without_dates(content: bytes) -> bytes:
    """The same workbook without the time it was made at."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            part = source.read(name)
            if name == "docProps/core.xml":
                part = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"1980-01-01T00:00:00Z", part)
            target.writestr(zipfile.ZipInfo(name, _EPOCH), part, zipfile.ZIP_DEFLATED)
    return result.getvalue()
