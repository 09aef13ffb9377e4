"""Records in a block of bytes are the records."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from llava_teamlora.data.record_store import RecordStore
from llava_teamlora.data.records import load_records


def test_it_is_the_sequence_it_was_made_of(rows: list[dict[str, Any]], write_json: Callable[..., str]) -> None:
    records = load_records(write_json(rows))
    store = RecordStore(records)
    assert len(store) == 3 and list(store) == records and store[1:] == records[1:] and store[-1] == records[-1]
    assert list(pickle.loads(pickle.dumps(store))) == records  # as it travels to a spawned worker
    with pytest.raises(IndexError):
        store[3]
    assert len(RecordStore([])) == 0
