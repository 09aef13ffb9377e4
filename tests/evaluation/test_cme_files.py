"""Rows of public files: every form of file, torn and broken ones, and classes in parquet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows

TEXT = 'He said "so",\tand\u2028left'


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def fields(path: Path, **how: Any) -> list[dict[str, Any]]:
    return [row for _, row in rows(path, **how)]


def write_parquet(path: Path, columns: dict[str, list[Any]], classes: dict[str, list[str]] | None = None) -> Path:
    """As the hub's converter does: names of classes stand in the schema's metadata, numbers in the column."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if classes is not None:
        features = {name: {"names": names, "_type": "ClassLabel"} for name, names in classes.items()}
        features |= {name: {"dtype": "string", "_type": "Value"} for name in columns if name not in classes}
        meta = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": meta})
    parquet.write_table(table, path, row_group_size=2)
    return path


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    expected = [{"id": "1", "text": TEXT}, {"id": "2", "text": "zwei"}]
    quoted = '"' + TEXT.replace('"', '""') + '"'
    files = [
        put(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in expected)),
        put(tmp_path / "b.json", json.dumps(expected)),
        put(tmp_path / "c.csv", f"\ufeffid,text\r\n1,{quoted}\r\n\r\n2,zwei\r\n"),
        put(tmp_path / "d.tsv", f"id\ttext\n1\t{quoted}\n2\tzwei"),
        write_parquet(tmp_path / "e.parquet", {"id": ["1", "2"], "text": [TEXT, "zwei"]}),
    ]
    for file in files:
        assert fields(file) == expected, file.name
    assert [where for where, _ in rows(files[0])] == [f"{files[0]}, line 1", f"{files[0]}, line 2"]
    assert [where for where, _ in rows(files[2])] == [f"{files[2]}, line 2", f"{files[2]}, line 4"]
    assert [where for where, _ in rows(files[4])] == [f"{files[4]}, row[0]", f"{files[4]}, row[1]"]


def test_a_table_without_a_header_is_given_its_columns(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", '"two\nlines",C\nx,D\n')
    assert fields(file, columns=("question", "answer")) == [
        {"question": "two\nlines", "answer": "C"},
        {"question": "x", "answer": "D"},
    ]
    assert [where for where, _ in rows(file, columns="qa")] == [f"{file}, line 1", f"{file}, line 3"]


def test_quotes_may_be_text(tmp_path: Path) -> None:
    file = put(tmp_path / "a.tsv", 'a\tb\n"x\t"y" z\n')
    assert fields(file, quoted=False) == [{"a": '"x', "b": '"y" z'}]


def test_torn_rows_are_put_together(tmp_path: Path) -> None:
    """Wherever the line feed stood: within, before or after a text, twice in one row, beside an empty line."""
    torn = "id\ta\tlabel\n1\tone \n two\t0\n2\t\nfour\t1\n\n3\te\ni\n\nght\t0\n4\tfive\n\t1\n"
    found = list(rows(put(tmp_path / "a.tsv", torn), quoted=False))
    assert [tuple(row.values()) for _, row in found] == [
        ("1", "one two", "0"),
        ("2", "four", "1"),
        ("3", "e i ght", "0"),
        ("4", "five", "1"),
    ]
    assert [where.rpartition(" ")[2] for where, _ in found] == ["2", "4", "7", "11"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\tc\n1\t2\n3\t4\t5\n", "line 2: has 4 fields, expected 3"),  # a row that is short, not torn
        ("a\tb\tc\n1\t2\t3\n4\t5\n", "line 3: has 2 fields, expected 3"),  # the file's end
        ("a\tb\n1\t2\t3\n", "line 2: has 3 fields, expected 2"),
    ],
)
def test_what_is_not_torn_but_broken_is_told(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(rows(put(tmp_path / "a.tsv", content), quoted=False))


def test_classes_come_as_names(tmp_path: Path) -> None:
    columns = {"label": [1, 0, -1, None, 1], "text": list("abcde")}
    named = write_parquet(tmp_path / "a.parquet", columns, {"label": ["no", "yes"], "gone": ["x"]})
    assert [row["label"] for row in fields(named)] == ["yes", "no", -1, None, "yes"]
    assert [row["label"] for row in fields(write_parquet(tmp_path / "b.parquet", columns))] == columns["label"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "give it the ending of its form"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: expected an object, found list"),
        ("a.json", '{"a": 1}', "must be a list"),
        ("a.csv", "a,b\n1,2\n3\n", r"line 3: has 1 fields, expected 2 \(a, b\)"),
        ("a.csv", "a,a\n1,2\n", "line 1: the header names a column twice"),
        ("a.csv", 'a,b\n"1,2\n3,4\n', r"line 2: has 1 fields, expected 2"),
        ("a.csv", "a,b\n1,x\ry\n", "line 2: is no row of a table"),
        ("a.csv", "a,b\n1," + "x" * 140_000 + "\n", "line 2: is no row of a table"),
        ("a.tsv", b"a\tb\n1\t\xff\n", "line 2: is not UTF-8 text"),
        ("a.tsv", "a\tb\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("a.csv", b"\x1f\x8b\x08", "is packed"),
        ("a.parquet", b"PAR1 no more", "is not parquet that can be read"),
    ],
)
def test_what_is_broken_is_told(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(rows(put(tmp_path / name, content)))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_what_is_missing_is_told(ending: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no\.{ending}"):
        list(rows(tmp_path / f"no.{ending}"))


def test_metadata_that_is_none_is_told(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    table = pyarrow.table({"a": [1]}).replace_schema_metadata({"huggingface": "[1]"})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="its metadata of the library datasets cannot be read"):
        list(rows(tmp_path / "a.parquet"))


def test_lists_of_objects_in_parquets_metadata(tmp_path: Path) -> None:
    """As no_robots has it: a column of turns is a list in the metadata, beside one of classes."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    word = {"dtype": "string", "_type": "Value"}
    features = {"messages": [{"role": word}], "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = pyarrow.table({"messages": [[{"role": "user"}]], "label": [1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    assert [row for _, row in rows(tmp_path / "a.parquet")] == [{"messages": [{"role": "user"}], "label": "yes"}]


def test_parquet_whose_text_is_none(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    parquet.write_table(pyarrow.table({"a": pyarrow.array([b"\xff"]).view(pyarrow.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: holds text that is not UTF-8"):
        list(rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_a_pointer_instead_of_the_file(tmp_path: Path, ending: str) -> None:
    """What a clone leaves without git-lfs."""
    pytest.importorskip("pyarrow")
    path = put(tmp_path / f"a.{ending}", f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * '0'}\nsize 9\n")
    with pytest.raises(UserError, match=rf"a\.{ending}: is git-lfs's pointer to a file, not the file; git lfs pull"):
        list(rows(path))


def test_parquet_names_the_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'llava-teamlora\[cme\]'"):
        list(rows(tmp_path / "a.parquet"))


def test_rows_stream(tmp_path: Path) -> None:
    """The first row is there before a broken later one is looked at."""
    for name, content in {
        "a.jsonl": '{"a": 1}\nbroken',
        "a.csv": "a,b\n1,2\n3\n",
        "a.json": '[{"a": 1}, broken',
    }.items():
        stream = rows(put(tmp_path / name, content))
        assert next(stream)[1]["a"] in (1, "1")
        with pytest.raises(UserError):
            next(stream)
