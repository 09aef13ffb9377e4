"""Big JSON read piece by piece: the same as read at once, wherever a piece ends; and what is broken is named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme import streaming
from llava_teamlora.evaluation.cme.streaming import stream_members, stream_rows

CONTENT = {
    "Before": {"nested": [1, {"Data": [0]}], "text": 'a "quoted" \\ one, ünïcode 北京 😀'},
    "Number": 12345.678e-3,
    "Data": [{"n": 1}, {"text": "}],{"}, {"deep": [[[{}]]], "none": None}],
    "After": False,
}


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_same_wherever_a_piece_ends(
    size: int, indent: int | None, ascii_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_CHUNK", size)
    text = json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only)
    path = written(tmp_path / "big.json", f"\ufeff {text} \n")
    assert {key: value for _, key, value in stream_members(path)} == CONTENT
    rows = list(stream_rows(path, "Data"))
    assert [row for _, row in rows] == CONTENT["Data"]
    assert [where for where, _ in rows] == [f"{path}, Data[{n}]" for n in range(3)]


def test_empty_ones_are_fine(tmp_path: Path) -> None:
    assert list(stream_members(written(tmp_path / "a.json", "{ }"))) == []
    assert list(stream_rows(written(tmp_path / "b.json", '{"Data": [ ]}'), "Data")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file ends there"),
        ("[1]", "expected a JSON object, found a list"),
        ("3", "expected {; found '3'"),
        ('{"Data": {"a": 1}}', "Data: must be a list, found {'a': 1}"),
        ('{"Other": [], "More": 1}', r"has no field 'Data' \(it has 'Other', 'More'\)"),
        ('{"Data": [{"a": 1}, 2]}', r"Data\[1\]: expected an object, found int"),
        ('{"Data": [{"a": 1} {"a": 2}]}', r"after \[0\]: .*expected , or \]; found '{'"),
        ('{"Data": [{"a": 1}, {"a": ', r"Data\[1\]: .*the file ends there"),
        ('{"Data": [{"a": 1}', r"after \[0\]: .*the file ends there"),
        ('{"Data": [{"a": "never closed}]}', r"Data\[0\]: .*the file ends there"),
        ('{"Data": [{"a": nope, "b": "a long enough rest"}]}', r"Data\[0\]: is not JSON .*Expecting value"),
        ('{"Data": []} {}', "goes on after its end"),
        ('{"Data": [], }', "expected \""),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(stream_rows(written(tmp_path / "broken.json", content), "Data"))
    assert "broken.json" in str(caught.value)


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        list(stream_members(tmp_path / "none.json"))
    (tmp_path / "packed.json").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UserError, match="packed"):
        list(stream_members(tmp_path / "packed.json"))
    (tmp_path / "latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text .* at byte 7"):
        list(stream_members(tmp_path / "latin.json"))


def test_only_the_row_at_hand_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_CHUNK", 1 << 16)
    row = json.dumps({"text": "x" * 10_000})
    path = written(tmp_path / "big.json", '{"Data": [' + ",".join([row] * 2000) + "]}")  # 20 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in stream_rows(path, "Data")) == 2000
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
