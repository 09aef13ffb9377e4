"""Putting answers to their questions: files of ours, LLaVA's own, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row, data_sha256, read_answers
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.evaluation.types import Sample

Rows = list[dict[str, Any]]

# As MME and TextVQA: two questions a picture, whose name is the question id; LLaVA's files know a prompt of their own.
SAMPLES = [
    Sample(
        f"{picture}/{text}",
        f"{picture}.png",
        f"{text}\nIn one word.",
        ("x",),
        llava_prompt=f"{text}\nOne word!" if picture == 3 else None,
    )
    for picture in range(4)
    for text in ("Is it red?", "Is it a dog?")
]
UNIQUE = [Sample(f"k{i}", i, f"question {i}", ("x",)) for i in range(8)]


def rows_of(samples: list[Sample], texts: str = "abcdefgh") -> Rows:
    return [answer_row(sample, text, "m") for sample, text in zip(samples, texts, strict=True)]


def llavas(samples: list[Sample]) -> Rows:
    """As LLaVA's scripts write them: no key, its own prompt, metadata empty."""
    return [
        {**row, "prompt": sample.llava_prompt or sample.prompt, "metadata": {}, "key": None}
        for sample, row in zip(samples, rows_of(samples), strict=True)
    ]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows))
    return path


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[str]]:
    """Rows -> the texts of the samples, in their order."""

    def texts(samples: list[Sample], rows: Rows, **options: Any) -> list[str]:
        found = read_answers(write(tmp_path / "a.jsonl", rows), samples, **options)
        assert all(prediction.key == sample.key for sample, prediction in found)
        return [prediction.text for _, prediction in found]

    return texts


@pytest.mark.parametrize("samples", [SAMPLES, UNIQUE], ids=["repeated ids", "unique ids"])
@pytest.mark.parametrize("form", [rows_of, llavas])
def test_any_order_of_any_form(
    samples: list[Sample], form: Callable[[list[Sample]], Rows], read: Callable[..., list[str]]
) -> None:
    """LLaVA's chunks, merged by cat, may come in any order."""
    for seed in range(5):
        rows = form(samples)
        random.Random(seed).shuffle(rows)
        assert read(samples, rows) == list("abcdefgh")


def test_ids_may_be_numbers_on_one_side_and_text_on_the_other(read: Callable[..., list[str]]) -> None:
    rows = llavas(UNIQUE)
    for row in rows:
        row["question_id"] = str(row["question_id"])
    assert read(UNIQUE, rows) == list("abcdefgh")


def test_without_prompts_only_unique_ids_are_joined(read: Callable[..., list[str]]) -> None:
    assert read(UNIQUE, [row | {"prompt": None} for row in llavas(UNIQUE)]) == list("abcdefgh")
    with pytest.raises(UserError, match=r"line 1: 2 questions have its question_id '0.png': it must have a 'prompt'"):
        read(SAMPLES, [row | {"prompt": None} for row in llavas(SAMPLES)])


def test_the_same_id_and_prompt_twice_are_told_apart_by_their_order(read: Callable[..., list[str]]) -> None:
    twins = [*SAMPLES, Sample("again", "0.png", SAMPLES[0].prompt, ("x",))]
    rows = [{name: value for name, value in row.items() if name != "key"} for row in rows_of(twins, "abcdefghi")]
    assert read(twins, rows) == list("abcdefghi")
    assert read(twins, [rows[8], *rows[1:8], rows[0]]) == list("ibcdefgha")
    with pytest.raises(UserError, match=r"1 missing \(11\.1% of 9 questions; again\)"):
        read(twins, rows[:8])
    with pytest.raises(UserError, match=r"of 0/Is it red\?, again are the same, and only 1 of these 2 .*add a 'key'"):
        read(twins, rows[:8], partial=True)
    with pytest.raises(UserError, match=r"1 duplicate \(.*line 10: again again, as line 9"):
        read(twins, [*rows, rows[0]])
    assert read(twins, rows_of(twins, "abcdefghi")) == list("abcdefghi")


def shift_prompts(rows: Rows) -> None:
    """As after sorting one column of a table and not the other."""
    prompts = [row["prompt"] for row in rows]
    for row, prompt in zip(rows, [*prompts[2:], *prompts[:2]], strict=True):
        row["prompt"] = prompt


def other_edition(rows: Rows) -> None:
    for row in rows[:2]:
        row["prompt"] = "Answer briefly. " + row["prompt"]


def set_field(index: int, **fields: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[index].update(fields)


OURS: list[tuple[Callable[[Rows], object], str]] = [
    (
        lambda rows: rows.pop(3),
        r"answers 1 missing \(12\.5% of 8 questions; k3\); evaluate score --partial scores what is there$",
    ),
    (lambda rows: rows.clear(), r"a\.jsonl: holds no answers, .*; predict again$"),
    (
        lambda rows: rows.extend(rows[1:3]),
        r"2 duplicate \(20\.0% of 10 rows; line 9: k1 again, as line 2, line 10: k2 again, as line 3\); 2 of the 2 "
        r"duplicates say the same as the first answer: were chunks merged twice, or appended .* Keep one answer a",
    ),
    (
        lambda rows: rows.extend([rows[1], rows[2] | {"text": "other"}]),
        r"; 1 of the 2 duplicates say the same as the first answer: are there two runs\? Keep one answer a question$",
    ),
    (
        lambda rows: rows.append(rows[0] | {"key": "k99"}),
        r"1 unknown \(11\.1% of 9 rows; line 9: key 'k99'\); is the file of another benchmark or split\?$",
    ),
    (
        lambda rows: (rows.pop(), rows.append(rows[0] | {"key": "z"})),
        r"1 unknown .*'z'\), 1 missing \(12\.5% of 8 questions; k7\); is",
    ),
    (
        shift_prompts,
        r"answers 8 to prompts of other questions \(100\.0% of 8 rows; line 1: 'question 2' is not 'question 0'",
    ),
    (shift_prompts, r"; is the file shuffled, or are its ids of another edition\?$"),
    (
        other_edition,
        r"answers 2 to prompts that this data has not \(25\.0% of 8 rows; line 1: 'Answer briefly\. question 0'",
    ),
    (other_edition, r"; was it answered on another edition of the data, or with another prompt\?$"),
    (
        set_field(4, question_id=5),
        r"1 contradictory \(.*line 5: k4 has question_id 4, not 5\); were keys",
    ),
    (set_field(1, text=5), r"line 2: 'text' must be str, found 5"),
    (set_field(1, text=["yes"]), r"line 2: 'text' must be str, found \['yes'\]"),
    (set_field(1, text=None), r"line 2: has no field 'text'"),
    (set_field(1, prompt=7), r"line 2: 'prompt' must be str, found 7"),
    (set_field(1, key=1), r"line 2: 'key' must be str, found 1"),
    (set_field(1, question_id=True), r"line 2: 'question_id' must be int or str, found True"),
    (set_field(1, key=None, question_id=None), r"line 2: has neither 'key' nor 'question_id'"),
    (set_field(6, round_id=1), r"line 7: 'round_id' is 1: LLaVA's --all-rounds asked .* without --all-rounds"),
]


@pytest.mark.parametrize(("change", "message"), OURS)
def test_refusals(change: Callable[[Rows], object], message: str, read: Callable[..., list[str]]) -> None:
    rows = rows_of(UNIQUE)
    change(rows)
    with pytest.raises(UserError, match=message) as caught:
        read(UNIQUE, rows)
    assert "a.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), OURS)
def test_a_part_is_no_excuse(change: Callable[[Rows], object], message: str, read: Callable[..., list[str]]) -> None:
    """--partial pardons what is missing, and nothing else."""
    rows = rows_of(UNIQUE)
    change(rows)
    if "answers 1 missing" in message:
        assert read(UNIQUE, rows, partial=True) == list("abcefgh")
    else:
        with pytest.raises(UserError, match="no answers" if not rows else None):
            read(UNIQUE, rows, partial=True)


def test_refusals_of_llavas_files_with_repeated_ids(read: Callable[..., list[str]]) -> None:
    rows = llavas(SAMPLES)
    rows[1]["prompt"] = rows[0]["prompt"]
    with pytest.raises(UserError, match=r"1 duplicate \(.*line 2: 0/Is it red\? again, as line 1\), 1 missing"):
        read(SAMPLES, rows)
    rows = llavas(SAMPLES)
    rows[0]["question_id"] = "99.png"
    with pytest.raises(UserError, match=r"1 unknown \(12\.5% of 8 rows; line 1: question_id '99\.png'\), 1 missing"):
        read(SAMPLES, rows)
    rows = llavas(SAMPLES)
    other_edition(rows)
    # Both rows of the picture are told once, as misfits, not as missing too.
    with pytest.raises(UserError, match=r"answers 2 to prompts that this data has not \([^)]*\); was it") as caught:
        read(SAMPLES, rows)
    assert "missing" not in str(caught.value)


def test_llavas_first_round_is_an_answer(read: Callable[..., list[str]]) -> None:
    rows = [row | {"round_id": 0, "options": ["x", "y"], "option_char": ["A", "B"]} for row in llavas(UNIQUE)]
    assert read(UNIQUE, rows) == list("abcdefgh")


def test_a_limit_checks_what_it_passes_over(read: Callable[..., list[str]]) -> None:
    rows = rows_of(UNIQUE)
    assert read(UNIQUE, rows, limit=3) == list("abc")
    assert read(UNIQUE, rows[:3], limit=3) == list("abc")
    rows[7]["prompt"] = "what?"
    with pytest.raises(UserError, match="1 to prompts that this data has not"):
        read(UNIQUE, rows, limit=3)


def test_strange_texts_come_through_as_they_are(read: Callable[..., list[str]]) -> None:
    texts = ["", "\n", "a\u2028b", "\ufeff", "答案是A。", "x" * 100_000, '"\\', "\x00"]
    assert read(UNIQUE, [row | {"text": text} for row, text in zip(rows_of(UNIQUE), texts, strict=True)]) == texts


@pytest.mark.parametrize(
    "change",
    [{"key": "z"}, {"prompt": "z"}, {"targets": ("z",)}, {"group": "z"}, {"choices": ("z",)}],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_is_of_all_that_decides_a_score(change: dict[str, Any]) -> None:
    assert data_sha256([replace(UNIQUE[0], **change), *UNIQUE[1:]]) != data_sha256(UNIQUE)
    assert data_sha256(list(UNIQUE)) == data_sha256(UNIQUE)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(UserError, match=r"a\.jsonl: no such answers file \(--answers\)"):
        read_answers(path, UNIQUE)
    for content, message in (
        (
            b'{"key": "k0", "text": "x"}\n{"key": ',
            r"line 2: broken JSON .*; the file ends there: was it written to its",
        ),
        (b'{"key": \n{"key": "k0", "text": "x"}\n', r"line 1: broken JSON \([^)]*\)$"),
        (b'{"key": "k0", "text": "\xff"}\n', r"line 1: is not UTF-8 text"),
        (b'{"key": "k0", "text": "x"}\n[1]\n', r"line 2: expected an object, found list"),
        (b'[{"key": "k0", "text": "x"}]', r"a\.jsonl: is one piece of JSON, not JSON lines; .*jq -c '\.\[\]' makes"),
        (b"\xef\xbb\xbf[\n  {\n", r"a\.jsonl: is one piece of JSON, not JSON lines; [^;]*$"),
        (b'{\n  "key": "k0",\n', r"a\.jsonl: is one piece of JSON, not JSON lines"),
        (gzip.compress(b'{"key": "k0", "text": "x"}\n'), r"a\.jsonl: is packed \(gzip\); unpack it first$"),
        (b"PK\x03\x04\x14\x00a.jsonl\n\xff", r"a\.jsonl: is packed \(zip\); unpack it first$"),
        ('{"key": "k0", "text": "x"}\n'.encode("utf-16"), r"a\.jsonl: is UTF-16 text; save it as UTF-8$"),
        (b'{"key": ' + b"9" * 5000 + b"}\n", r"line 1: JSON that cannot be read \(.*digit"),
        (b'{"key": ' + b"[" * 100_000 + b"\n", r"line 1: JSON that cannot be read \(.*recursion"),
        (b"", r"holds no answers"),
        (b"\n \n", r"holds no answers"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_answers(path, UNIQUE, partial=True)


def test_packed_and_utf16_json(tmp_path: Path) -> None:
    """Of official files that are one piece of JSON."""
    path = tmp_path / "val.json"
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(UserError, match=r"val\.json: is packed \(gzip\); unpack it first$"):
        read_json_object(path)
    path.write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(UserError, match=r"val\.json: is UTF-16 text; save it as UTF-8$"):
        read_json_object(path)


def test_a_folder_is_no_answers_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, not an answers file \(--answers\); it holds no \*\.jsonl"):
        read_answers(tmp_path, UNIQUE)
    for name in ("predictions.jsonl", "scores.rows.jsonl", "m.jsonl", "scores.json"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"is a folder, .*; name one of its files: m\.jsonl, predictions\.jsonl$"):
        read_answers(tmp_path, UNIQUE)


def test_a_byte_order_mark_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"key": "k0", "text": "x"}\r\n\r\n{"key": "k1", "text": "y"}\r\n')
    assert [prediction.text for _, prediction in read_answers(path, UNIQUE[:2])] == ["x", "y"]
