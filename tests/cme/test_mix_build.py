"""Whole builds of small files: what is planted is found, and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mix_files import alpaca, anli, leaks, make, nq, plan, write_lines

from llava_teamlora.cme.build import build
from llava_teamlora.cme.sources import SOURCES
from llava_teamlora.data.records import load_records
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.cme.task import TextTask

PREMISE = "The old mill by the lake was sold in spring to a baker who had never seen it before."
OTHER = "Every winter the ferry to the northern island stops for two weeks because of the ice there."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three sets with 3 leaks, 3 duplicates; 14 rows in all."""
    nq(tmp_path / "eval/nq/NQ-open.dev.jsonl", [("who sold the mill", "a widow")])
    anli(tmp_path / "eval/anli/R1/test.jsonl", [(PREMISE, "The baker knew the mill.", "c")])
    nq(
        tmp_path / "train/nq/NQ-open.train.jsonl",
        [
            ("Who sold the mill?", "a widow"),  # asked in evaluation
            ("who bakes here", "Ann"),
            ("Who bakes here", "ann"),  # a duplicate of the last, but for case
            ("who bakes here", "Bob"),  # the same question, another answer
        ],
    )
    anli(
        tmp_path / "train/anli/R1/train.jsonl",
        [
            (PREMISE, "It was autumn.", "c"),  # shares its premise with an evaluation item
            (OTHER, "There is ice.", "e"),
            (OTHER, "There is ice.", "e"),  # a duplicate
            (OTHER, "The ferry is new.", "n"),
        ],
    )
    for number in (2, 3):
        anli(tmp_path / f"train/anli/R{number}/train.jsonl", [(f"{OTHER} {number}", "It is so.", "n")])
    alpaca(
        tmp_path / "train/alpaca_gpt4/alpaca_gpt4_data.json",
        [
            ("Count to three.", "<noinput>", "1, 2, 3"),
            ("Shorten this.", f"Dear all, {PREMISE} Yours.", "A mill was sold."),  # holds 13 words of an item
            ("Who bakes here?", "", "Ann."),  # a duplicate of NQ's
            ("Say hello.", "in French", "Bonjour"),
        ],
    )
    return tmp_path


NAMES = ("anli", "nq", "alpaca_gpt4")


def test_what_is_planted_is_found(root: Path) -> None:
    manifest, records = make(root, *NAMES)
    counts = {name: (one["rows"], one["duplicates"], one["duplicates_of_others"], one["leaks_found"], one["kept"])
              for name, one in manifest["sets"].items()}  # fmt: skip
    assert counts == {
        "anli": (6, 1, 0, {"text": 1}, 4),
        "nq": (4, 1, 0, {"item": 1}, 2),
        "alpaca_gpt4": (4, 0, 1, {"13-gram": 1}, 2),
    }
    assert manifest["total"]["kept"] == manifest["records"] == len(records) == 8
    assert manifest["leaks"]["found"] == {"13-gram": 1, "item": 1, "text": 1}
    assert [(row["source"], row["where"].split("/")[-1], row["evaluation"].split("/")[-1]) for row in leaks(root)] == [
        ("anli", "train.jsonl, line 1", "test.jsonl, line 1"),
        ("nq", "NQ-open.train.jsonl, line 1", "NQ-open.dev.jsonl, line 1"),
        ("alpaca_gpt4", "alpaca_gpt4_data.json, row[1]", "test.jsonl, line 1"),
    ]
    assert all(row["dropped"] for row in leaks(root))
    assert "tldr: the test split, 6553 posts" in manifest["leaks"]["not_compared_with"]


def test_records_have_cmes_form_and_load(root: Path) -> None:
    _, records = make(root, *NAMES)
    assert {"instruction": "Count to three.", "input": "", "output": "1, 2, 3", "task": "alpaca_gpt4"} in records
    assert {"instruction": "who bakes here", "input": "", "output": "Bob", "task": "nq"} in records
    task = get_benchmark("anli")
    assert isinstance(task, TextTask)
    asked = [record for record in records if record["task"] == "anli"]
    assert {record["instruction"] for record in asked} <= {task.instruction, *task.paraphrases}
    assert f"Sentence 1: {OTHER}\nSentence 2: There is ice." in [record["input"] for record in asked]
    loaded = load_records(root / "mix.jsonl")
    assert len(loaded) == 8 and {record.task for record in loaded} == set(NAMES)


def test_a_list_holds_the_same_records(root: Path) -> None:
    _, lines = make(root, *NAMES)
    manifest, listed = make(root, *NAMES, out=root / "mix2.json")
    assert listed == lines and manifest["records"] == 8
    assert len(load_records(root / "mix2.json")) == 8


def test_leaks_may_stay_or_end_the_build(root: Path) -> None:
    manifest, records = make(root, *NAMES, leaks="keep")
    assert len(records) == 11 and manifest["leaks"]["found"] == {"13-gram": 1, "item": 1, "text": 1}
    assert not any(row["dropped"] for row in leaks(root))
    manifest, records = make(root, *NAMES, leak_reasons=("item",), out=root / "items.jsonl")
    assert len(records) == 10 and manifest["total"]["leaks_dropped"] == 1
    with pytest.raises(UserError, match="3 of the chosen rows leak .1 by 13-gram, 1 by item, 1 by text.; no mix"):
        make(root, *NAMES, leaks="refuse", out=root / "none.jsonl")
    assert not (root / "none.jsonl").exists() and len(leaks(root, "none.leaks.jsonl")) == 3
    make(root, *NAMES, out=root / "none.jsonl")  # what was refused is in nobody's way


def test_duplicates_by_question_or_none(root: Path) -> None:
    # By question: NQ's three "who bakes here" are one, and Alpaca's is theirs.
    manifest, records = make(root, *NAMES, dedup="question")
    assert manifest["sets"]["nq"]["duplicates"] == 2 and len(records) == 7
    manifest, records = make(root, *NAMES, dedup="off", out=root / "all.jsonl")
    assert manifest["total"]["duplicates"] == 0 and len(records) == 11


def test_the_seed_draws_instructions(root: Path) -> None:
    rows = [(f"Premise {n} tells of a house.", f"House {n} is red.", "n") for n in range(200)]
    anli(root / "train/anli/R1/train.jsonl", rows)

    def drawn(name: str, **options: object) -> list[str]:
        return [record["instruction"] for record in make(root, "anli", out=root / f"{name}.jsonl", **options)[1]]

    one, same, other = drawn("a", seed=1), drawn("b", seed=1), drawn("c", seed=2)
    assert one == same != other
    task = get_benchmark("anli")
    assert isinstance(task, TextTask)
    assert set(one) == {task.instruction, *task.paraphrases}  # each of eight 200 times: all come up
    assert set(drawn("d", paraphrases="one")) == {task.instruction}


def test_cap_and_scale(root: Path) -> None:
    nq(root / "train/nq/NQ-open.train.jsonl", [(f"what is number {n}", str(n)) for n in range(100)])

    def taken(name: str, scale: int, cap: int) -> set[str]:
        records = make(root, "nq", out=root / f"{name}.jsonl", scale=scale, caps={"nq": cap})[1]
        return {record["output"] for record in records}

    half, tenth, small = taken("a", 50, 60), taken("b", 10, 60), taken("c", 100, 30)
    assert (len(half), len(tenth), len(small)) == (30, 6, 30)
    assert tenth < half == small  # the first 30 by priority, either way


def test_missing_files_are_said_all_at_once(root: Path) -> None:
    with pytest.raises(UserError) as raised:
        plan(root, "nq", "belle", "rte", skip_missing=False, skip_missing_eval=False)
    said = str(raised.value)
    for name in ("belle/Belle_open_source_1M.json", "rte/RTE/train.tsv", "eval/mmlu/data/test/*_test.csv", "--skip_"):
        assert name in said
    assert "nq/" not in said
    with pytest.raises(UserError, match="holds no file of any set"):
        plan(root, "belle", "rte")


def test_bad_rows(root: Path) -> None:
    path = root / "train/alpaca_gpt4/alpaca_gpt4_data.json"
    rows = [
        {"instruction": "A", "input": "", "output": "fine"},
        {"instruction": "B", "input": "", "output": " "},
        {"instruction": "C", "input": ""},
        {"instruction": "", "input": "", "output": "x"},
        {"instruction": "See <image>", "input": "", "output": "x"},
        {"instruction": "D", "output": "fine"},
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"alpaca_gpt4_data.json, row\[1\]: its answer is empty; .*--on_bad_row skip"):
        make(root, "alpaca_gpt4")
    manifest, records = make(root, "alpaca_gpt4", on_bad_row="skip", overwrite=True)
    assert [record["instruction"] for record in records] == ["A", "D"]
    assert manifest["sets"]["alpaca_gpt4"]["bad_rows"] == 4
    listed = [(row["where"].split(", ")[1], row["problem"]) for row in leaks(root, "mix.bad_rows.jsonl")]
    assert [where for where, _ in listed] == ["row[1]", "row[2]", "row[3]", "row[4]"]
    assert "no field 'output'" in listed[1][1] and "<image>" in listed[3][1]


def test_another_mix_is_not_overwritten(root: Path) -> None:
    make(root, "nq")
    assert build(plan(root, "nq"))[1] is False  # the same again: nothing to do
    with pytest.raises(UserError, match="is there already .seed: 0 then, 1 now.; .*--overwrite"):
        make(root, "nq", seed=1)
    nq(root / "train/nq/NQ-open.train.jsonl", [("a new question", "yes")])
    with pytest.raises(UserError, match="files .*NQ-open.train.jsonl: "):
        make(root, "nq")
    assert make(root, "nq", overwrite=True)[0]["records"] == 1
    (root / "mix.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match="with other content than its manifest says"):
        make(root, "nq")


def test_a_refused_file_leaves_nothing_in_the_way(root: Path) -> None:
    """Mended, or with the flag that the message names, the same command must go on."""
    path = root / "train/alpaca_gpt4/alpaca_gpt4_data.json"
    alpaca(path, [("A", "", "fine"), ("B", "", " ")])
    with pytest.raises(UserError, match="or --on_bad_row skip"):
        make(root, "nq", "alpaca_gpt4")
    assert not (root / "mix.building").exists()
    assert make(root, "nq", "alpaca_gpt4", on_bad_row="skip")[0]["total"]["bad_rows"] == 1
    (root / "eval/nq/NQ-open.dev.jsonl").write_text('{"question": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"NQ-open\.dev\.jsonl, line 1: broken JSON"):
        make(root, "nq", out=root / "other.jsonl")
    nq(root / "eval/nq/NQ-open.dev.jsonl", [("who sold the mill", "a widow")])
    assert make(root, "nq", out=root / "other.jsonl")[0]["leaks"]["evaluation_items"] == 2


@pytest.mark.parametrize("rows", [3, 1000, 1500])
def test_a_set_of_bad_rows_alone_is_refused(root: Path, rows: int) -> None:
    """Skipping bad rows is for some of a set, not for a set of another edition."""
    path = root / "train/openorca/1M-GPT4-Augmented.jsonl"
    write_lines(path, ({"prompt": "A", "completion": str(n)} for n in range(rows)))
    with pytest.raises(UserError, match=rf"line 1: has no field .* first {min(rows, 1000)} rows a record: is it of"):
        make(root, "openorca", on_bad_row="skip")


@pytest.mark.parametrize("name", ["eval/nq/NQ-open.dev.jsonl", "train/nq/NQ-open.train.jsonl"])
def test_empty_files_are_refused(root: Path, name: str) -> None:
    (root / name).write_text("")
    with pytest.raises(UserError, match=r"NQ-open\..*\.jsonl: holds no rows; was it downloaded"):
        make(root, "nq")


def test_a_mix_takes_the_place_of_no_file_it_is_made_of(root: Path) -> None:
    for name in ("train/nq/NQ-open.train.jsonl", "eval/nq/NQ-open.dev.jsonl"):
        before = (root / name).read_bytes()
        with pytest.raises(UserError, match=r"is read by this build .*; choose another --out"):
            make(root, "nq", out=root / name, overwrite=True)
        assert (root / name).read_bytes() == before
    assert not list(root.rglob("*.building"))


@pytest.mark.parametrize("content", ['{"a": 1}', '{"made_from": 3, "sha256": ""}'])
def test_a_strangers_manifest(root: Path, content: str) -> None:
    (root / "mix.jsonl").write_text("{}\n")
    (root / "mix.manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"mix\.manifest\.json: is no manifest of cme build"):
        make(root, "nq")


def test_system_prompts_are_no_text_of_a_row(root: Path) -> None:
    rows = [
        {"system_prompt": "Be brief.", "question": "Who sold the mill?", "response": "A widow."},
        {"system_prompt": "", "question": "What floats?", "response": "Wood."},
        {"system_prompt": "Be exact.", "question": "what floats", "response": "wood"},
    ]
    write_lines(root / "train/openorca/1M-GPT4-Augmented.jsonl", rows)
    manifest, records = make(root, "openorca")
    one = manifest["sets"]["openorca"]
    assert (one["leaks_found"], one["duplicates"], one["missing"]) == (
        {"item": 1},
        1,
        [SOURCES["openorca"].files[1].what],
    )
    assert [record["output"] in ("Wood.", "wood") for record in records] == [True]
    kept = records[0]  # an empty system prompt leaves the question as instruction
    assert (kept["instruction"], kept["input"]) in [("What floats?", ""), ("Be exact.", "what floats")]
