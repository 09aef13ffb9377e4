"""Records in one block of bytes, for loader workers.

In: records. Out: the same, read back one at a time. A worker that is forked shares its parent's memory until one of
them writes to it, and Python writes to every object that it looks at (its reference count): with a list, each worker
ends up with a copy of all records. Nothing is ever written to a block of bytes; and a spawned worker gets it in one
piece.
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from llava_teamlora.data.records import Record


class RecordStore(Sequence[Record]):
    """A sequence of records that costs workers no memory.

    Args:
        records: to be kept.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._ends = array("q", [0])
        content = bytearray()
        for record in records:
            content += pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
            self._ends.append(len(content))
        self._content = bytes(content)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Record]:
        return map(self._read, range(len(self)))

    def _read(self, index: int) -> Record:
        return pickle.loads(memoryview(self._content)[self._ends[index] : self._ends[index + 1]])
