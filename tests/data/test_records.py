"""LLaVA's JSON is checked before anything else happens; every message names file, record and field."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.data.records import load_records, parse_record
from llava_teamlora.errors import UserError

IMAGE = "<image>"


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


def test_records_as_llava_reads_them(rows: list[dict], write_json: Callable[..., str]) -> None:
    first, second, third = load_records(write_json(rows))
    assert (first.images, first.turns[0].text) == (("red.png",), "<image>\nwhat color is it?")
    assert second.turns[0].text == "<image>\nis it wide?"  # the marker moves, the space it left is stripped
    assert third.images == ()
    assert third.where.endswith("record 2 (id c)")


def test_white_space_is_kept_where_no_marker_stood() -> None:
    record = parse_record({"conversations": talk("  q ", " a ")}, source="f", index=0)
    assert [turn.text for turn in record.turns] == ["  q ", " a "]


def test_a_leading_gpt_turn_is_dropped_as_in_llava() -> None:
    turns = [{"from": "gpt", "value": "hello"}, *talk("q", "a")]
    assert [t.text for t in parse_record({"conversations": turns}, source="f", index=0).turns] == ["q", "a"]


def test_a_picture_alone_in_its_turn_has_no_newline() -> None:
    record = parse_record({"image": "a.png", "conversations": talk(f" {IMAGE} ", "a")}, source="f", index=0)
    assert record.turns[0].text == IMAGE


def test_several_pictures_stay_where_they_stand() -> None:
    texts = (f"Is {IMAGE} as wide as {IMAGE}? ", "no", f" and {IMAGE}", "yes")
    row = {"image": ["a.png", "b.png", "c.png"], "conversations": talk(*texts)}
    record = parse_record(row, source="f", index=0)
    assert record.images == ("a.png", "b.png", "c.png")
    assert tuple(turn.text for turn in record.turns) == texts


@pytest.mark.parametrize(
    ("extra", "question"),
    [
        ({}, "Is it so?"),
        ({"input": None}, "Is it so?"),
        ({"input": ""}, "Is it so?"),
        ({"input": "x\ny"}, "Is it so?\nx\ny"),
        ({"instruction": "", "input": "x"}, "\nx"),  # as the authors' data code joins them
    ],
)
def test_instructions_are_one_question_and_its_answer(extra: dict[str, Any], question: str) -> None:
    row = {"instruction": "Is it so?", "output": " yes ", "task": "rte", **extra}
    record = parse_record(row, source="f", index=0)
    assert [(turn.role, turn.text) for turn in record.turns] == [("human", question), ("gpt", " yes ")]
    assert (record.images, record.task) == ((), "rte")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": None}, "record 3 (id 3): 'output' must be a text with words, found None"),
        ({"output": " \n"}, "'output' must be a text with words"),
        ({"instruction": "", "input": " "}, "'instruction' must be a text with words, found ''"),
        ({"instruction": ["a"]}, "'instruction' must be a text with words, found ['a']"),
        ({"input": 0}, "'input' must be a text, or be left out, found 0"),
        ({"conversations": talk("q", "a")}, "has both 'instruction' and 'conversations'"),
        ({"image": "a.png"}, "'image' is given but no turn holds <image>"),
        ({"input": "see <image>"}, "1 x <image> but no 'image' field"),
    ],
)
def test_broken_instructions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_record({"instruction": "i", "output": "o", **change}, source="f", index=3)


def test_a_task_is_optional() -> None:
    row = {"conversations": talk("q", "a")}
    found = [
        parse_record({**row, **extra}, source="f", index=0).task for extra in ({}, {"task": None}, {"task": "vqa"})
    ]
    assert found == [None, None, "vqa"]


def test_json_lines(write_json: Callable[..., str]) -> None:
    line = '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}\n'
    assert len(load_records(write_json(line + "\n" + line, "x.jsonl"))) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "record 7: expected an object, found str"),
        ({"id": "x"}, "record 7 (id x): 'conversations' must be a non-empty list"),
        ({"conversations": []}, "'conversations' must be a non-empty list"),
        ({"conversations": [{"from": "human"}]}, "conversations[0] must be {from, value}"),
        ({"conversations": [{"from": "bot", "value": "q"}]}, "conversations[0].from must be 'human' or 'gpt'"),
        ({"conversations": talk("q")}, "the last turn must be gpt's answer"),
        ({"conversations": talk("q", "a"), "task": 3}, "'task' must be a name (one line of text"),
        ({"conversations": talk("q", "a"), "task": " "}, "'task' must be a name"),
        ({"conversations": talk("q", "a"), "task": "a\nb"}, "'task' must be a name"),
        ({"conversations": [*talk("q"), *talk("q", "a")]}, "turns must alternate human, gpt; turn 1 is from 'human'"),
        ({"conversations": talk(IMAGE + "q", "a")}, "1 x <image> but no 'image' field"),
        ({"image": "a.png", "conversations": talk("q", "a")}, "'image' is given but no turn holds <image>"),
        ({"image": "a.png", "conversations": talk(f"{IMAGE}{IMAGE}", "a")}, "2 x <image> (2 in turn 0) for 1 picture"),
        (
            {"image": ["a", "b", "c"], "conversations": talk(IMAGE, "a", IMAGE, "b")},
            "2 x <image> (1 in turn 0, 1 in turn 2) for 3 picture(s); each picture needs exactly one",
        ),
        ({"image": "a.png", "conversations": talk("q", IMAGE)}, "<image> stands in gpt's turn 1"),
        ({"image": ["a", "b"], "conversations": talk(IMAGE, IMAGE)}, "<image> stands in gpt's turn 1"),
        ({"image": [], "conversations": talk("q", "a")}, "'image' must be a path or a non-empty list"),
        ({"image": 3, "conversations": talk("q", "a")}, "'image' must be a path or a non-empty list"),
    ],
)
def test_bad_records_are_refused(row: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        parse_record(row, source="data.json", index=7)
    assert str(caught.value).startswith("data.json, record 7")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1,}]', "broken JSON at line 1, column 11"),
        ('{"a": 1}\n{"a": 2}', "(one record a line? name it .jsonl)"),
        ('{"a": 1}', "expected a JSON list of records, found dict"),
        ("[]", "holds no records"),
        ("", "broken JSON at line 1"),
    ],
)
def test_bad_files_are_refused(content: str, message: str, write_json: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_records(write_json(content))


def test_broken_json_lines_name_their_line(write_json: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="broken JSON at line 3"):
        load_records(write_json('{}\n\n{"a" 1}\n', "x.jsonl"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_records(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a folder"):
        load_records(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(UserError, match="is not UTF-8"):
        load_records(tmp_path / "latin.json")
