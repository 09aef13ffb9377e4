"""JSON files too big to hold: the members of one object, or the rows of one list in it, read one by one.

TriviaQA's training file and WebQA's are one piece of JSON each; what comes beside their questions (pages, search
results, evidence) makes them hundreds of megabytes. Of such a file only the member at hand is held.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import expect_object, no_text, open_bytes

_CHUNK = 1 << 20
_NEAR_END = 16  # so near to the end of what is read so far, a word or a number may be cut off: "12." of "12.5"

Row = tuple[str, dict[str, Any]]


def stream_members(path: Path) -> Iterator[tuple[str, str, Any]]:
    """The members of the object that a JSON file is.

    Yields:
        Place (``file, 'key'``), key and value.

    Raises:
        UserError: missing, broken, or no object.
    """
    with _opened(path) as text:
        for key in text.keys(str(path)):
            where = f"{path}, {key!r}"
            yield where, key, text.value(where)
        text.end()


def stream_rows(path: Path, field: str) -> Iterator[Row]:
    """The list of objects under a field of a JSON file's object; what stands beside it is passed over.

    Yields:
        Place (``file, field[n]``) and object.

    Raises:
        UserError: missing, broken, or without such a list.
    """
    found: list[str] = []
    with _opened(path) as text:
        for key in text.keys(str(path)):
            if key == field:
                yield from text.objects(f"{path}, {field}")
            else:
                text.value(f"{path}, {key!r}")
            found.append(key)
        text.end()
    if field not in found:
        raise UserError(f"{path}: has no field {field!r} (it has {', '.join(map(repr, found)) or 'none'})")


def stream_list(path: Path) -> Iterator[Row]:
    """The objects of the list that a JSON file is.

    Yields:
        Place (``file, row[n]``, from 0) and object.

    Raises:
        UserError: missing, broken, or no list.
    """
    with _opened(path) as text:
        yield from text.objects(f"{path}, row")
        text.end()


@contextmanager
def _opened(path: Path) -> Iterator[_Text]:
    with open_bytes(path) as file:
        yield _Text(path, file)


class _Text:
    """A window that moves over a JSON file's text."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.bytes = codecs.getincrementaldecoder("utf-8-sig")()
        self.decoder = json.JSONDecoder()
        self.buffer, self.at, self.whole = "", 0, False
        first = file.read(_CHUNK)
        if other := no_text(first):
            raise UserError(f"{path}: {other}")
        self._take(first)

    def _take(self, chunk: bytes) -> None:
        self.whole = not chunk
        try:
            more = self.bytes.decode(chunk, final=self.whole)
        except UnicodeDecodeError as error:
            before = self.file.tell() - len(error.object)
            raise UserError(
                f"{self.path}: is not UTF-8 text ({error.reason} at byte {before + error.start}); save it as UTF-8"
            ) from error
        self.buffer, self.at = self.buffer[self.at :] + more, 0

    def _more(self) -> None:
        # As much again as there is: a long value is decoded anew a few times only.
        self._take(self.file.read(max(_CHUNK, len(self.buffer) - self.at)))

    def peek(self) -> str:
        """The next character that is no white space; ``""`` at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.buffer) or self.whole:
                return self.buffer[self.at : self.at + 1]
            self._more()

    def expect(self, characters: str, where: str) -> str:
        """The next character, which must be one of these."""
        found = self.peek()
        if not found or found not in characters:
            shown = f"found {found!r}" if found else "the file ends there: was it written to its end?"
            raise UserError(f"{where}: is not JSON that can be read (expected {' or '.join(characters)}; {shown})")
        self.at += 1
        return found

    def value(self, where: str) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
                if end < len(self.buffer) - _NEAR_END or self.whole:
                    self.at = end
                    return value
            except (ValueError, RecursionError) as error:
                if self.whole or not self._cut_off(error):
                    ending = "; the file ends there: was it written to its end?" if self._cut_off(error) else ""
                    raise UserError(f"{where}: is not JSON that can be read ({error}){ending}") from error
            self._more()

    def _cut_off(self, error: Exception) -> bool:
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - _NEAR_END

    def keys(self, where: str) -> Iterator[str]:
        """The keys of an object, each just before its value is read."""
        if self.peek() == "[":
            raise UserError(f"{where}: expected a JSON object, found a list")
        self.expect("{", where)
        if self.peek() == "}":
            self.expect("}", where)
            return
        while True:
            if self.peek() != '"':
                self.expect('"', where)
            key = self.value(where)
            self.expect(":", f"{where}, {key!r}")
            yield key
            if self.expect(",}", f"{where}, after {key!r}") == "}":
                return

    def objects(self, where: str) -> Iterator[Row]:
        """The objects of a list, each with its place."""
        if self.peek() not in ("[", ""):
            raise UserError(f"{where}: must be a list, found {self.value(where)!r:.80}")
        self.expect("[", where)
        if self.peek() == "]":
            self.expect("]", where)
            return
        index = 0
        while True:
            place = f"{where}[{index}]"
            yield place, expect_object(self.value(place), place)
            if self.expect(",]", f"{where}, after [{index}]") == "]":
                return
            index += 1

    def end(self) -> None:
        """Nothing may follow."""
        if found := self.peek():
            raise UserError(f"{self.path}: goes on after its end, with {found!r}; is it two files in one?")
