"""The 22 sets: what is said of them, and how their rows are read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mix_files import write_lines

from llava_teamlora import cli
from llava_teamlora.cme.forms import BadRow, Dialogue, Example, Fields, Form, Labels
from llava_teamlora.cme.sources import OTHERS, SOURCES, TASKS
from llava_teamlora.evaluation.benchmarks import SETS


def test_twenty_two_sets_make_the_papers_number() -> None:
    assert len(SOURCES) == 22 and len(TASKS) == len(OTHERS) == 11
    assert tuple(source.name for source in TASKS) == tuple(SETS["cme"])
    assert 2_450_000 < sum(source.cap for source in SOURCES.values()) < 2_550_000
    for source in SOURCES.values():
        assert source.cap <= source.rows and source.licence and source.files
        assert source.basis.startswith(("a task of Table 2; ", "inferred from ", "our choice: "))


def test_the_example_records_are_counted_once() -> None:
    seen = [int(count) for source in SOURCES.values() for count in re.findall(r"(\d+) of the 132", source.basis)]
    assert sum(seen) == 131  # one, an integral with a worked answer, is of no set that we know


def read(form: Form, path: Path) -> list[tuple[str, str, str] | str]:
    return [
        row.problem if isinstance(row, BadRow) else (row.instruction, row.input, row.output)
        for row in form.examples(path, "")
    ]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    rows = [{"instruction": "问", "input": "", "output": "答"}, {"instruction": "再问", "output": "再答"}]
    lines = write_lines(tmp_path / "Belle_open_source_1M.json", rows)
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps(rows), encoding="utf-8")
    assert read(Fields(), lines) == read(Fields(), listed) == [("问", "", "答"), ("再问", "", "再答")]


def test_labels_by_number_or_word(tmp_path: Path) -> None:
    form = Labels(("sadness", "joy"), ("Which?",))
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "sadness"}, {"text": "c", "label": 5}, {"text": "d"}]
    read_rows = read(form, write_lines(tmp_path / "train.jsonl", rows))
    assert read_rows[:2] == [("", "a", "joy"), ("", "b", "sadness")]
    assert "one of sadness, joy, found 5" in str(read_rows[2]) and "no field 'label'" in str(read_rows[3])


def test_the_first_turns_of_a_conversation(tmp_path: Path) -> None:
    def turns(*said: tuple[str, str]) -> dict[str, object]:
        return {"messages": [{"role": role, "content": text} for role, text in said]}

    rows = [
        turns(("user", "Hi"), ("assistant", "Hello"), ("user", "More"), ("assistant", "Yes")),
        turns(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
        turns(("assistant", "Hello"), ("user", "Hi")),
        {"messages": ["Hi", "Hello"]},
    ]
    found = read(Dialogue(), write_lines(tmp_path / "train.jsonl", rows))
    assert found[:2] == [("Hi", "", "Hello"), ("Be kind.", "Hi", "Hello")]
    assert "its speakers are 'assistant', 'user'" in str(found[2]) and "expected an object" in str(found[3])


@pytest.mark.parametrize(
    ("form", "row", "texts"),
    [
        (Fields(), {"instruction": "Add.", "input": "1 2", "output": "3"}, ("Add.", "1 2")),
        (Fields(), {"instruction": "Add 1 2.", "input": "", "output": "3"}, ("Add 1 2.",)),
        (Fields(framed=True), {"instruction": "Be brief.", "input": "1 + 2?", "output": "3"}, ("1 + 2?",)),
        (Labels(("no", "yes"), ("Say.",)), {"text": "so", "label": 1}, ("so",)),
    ],
)
def test_a_rows_own_texts(form: Form, row: dict[str, object], texts: tuple[str, ...], tmp_path: Path) -> None:
    (found,) = form.examples(write_lines(tmp_path / "a.jsonl", [row]), "")
    assert isinstance(found, Example) and found.texts == texts


def test_parquet_of_the_hub(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "train-00000-of-00001.parquet"
    rows = {"messages": [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]}
    parquet.write_table(arrow.table(rows), path)
    assert read(Dialogue(), path) == [("Hi", "", "Hello")]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "dolly/databricks-dolly-15k.jsonl", [{"instruction": "A", "context": "", "response": "B"}])
    assert cli.main(["cme", "sources", "dolly", "openorca", "--data_root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "there    dolly" in said and "missing: " in said and "1 of 2 there; 665,011 records" in said
    assert cli.main(["cme", "sources", "--json", "--data_root", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content) == 22 and not content["dolly"]["missing"] and content["nq"]["missing"]
    arguments = ["cme", "build", "--data_root", str(tmp_path), "--eval_root", str(tmp_path), "--skip_missing_eval"]
    arguments += ["--out", str(tmp_path / "mix.jsonl")]
    assert cli.main([*arguments, "--only", "dolly", "--cap", "dolly=7"]) == 0
    said = capsys.readouterr().out
    assert "written: " in said and "1 records" in said and "not compared with mmlu: " in said
    for wrong, why in (
        (["--only", "doly"], "did you mean 'dolly'"),
        (["--only", "dolly", "--cap", "nq=3"], "'nq' is no set of this mix"),
        (["--only", "dolly", "--cap", "dolly=0"], "write NAME=N"),
        (["--only", "dolly", "--cap", "dolly=7", "--cap", "dolly=8"], "dolly has a cap of 7 already"),
        (["--only", "dolly", "--scale", "0"], "must be 1 to 100"),
        (["--only", "dolly", "belle"], "belle/Belle_open_source_1M.json"),
    ):
        assert cli.main([*arguments, *wrong]) == 1
        assert why in capsys.readouterr().err


def test_a_build_imports_no_torch(tmp_path: Path) -> None:
    write_lines(tmp_path / "dolly/databricks-dolly-15k.jsonl", [{"instruction": "A", "context": "", "response": "B"}])
    roots = ["--data_root", str(tmp_path), "--eval_root", str(tmp_path), "--skip_missing_eval"]
    arguments = ["cme", "build", "--only", "dolly", *roots, "--out", str(tmp_path / "mix.jsonl")]
    code = f"import sys; from llava_teamlora import cli; assert cli.main({arguments!r}) == 0; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert not {"torch", "transformers", "pyarrow"} & set(done.stdout.split())


def test_the_page_tells_what_the_code_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cme_mix.md").read_text(encoding="utf-8")
    for source in SOURCES.values():
        assert f"| {source.rows:,} | {source.cap:,} | {source.licence} |" in page, source.name
    assert f"| {sum(source.cap for source in SOURCES.values()):,} |" in page


@pytest.mark.parametrize("name", ["quora_duplicate_questions.tsv", "train.csv"])
def test_quoras_own_release_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "qqp").mkdir()
    (tmp_path / "qqp" / name).touch()
    found, missing = SOURCES["qqp"].find(tmp_path)
    assert [path.name for path, _ in found] == [name] and not missing
