"""What is there of the files, building what can be built, and the lists: the commands as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.building import build
from llava_teamlora.evaluation.checking import check, load_samples
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.prediction.plan import check_pictures, ready
from llava_teamlora.evaluation.reading import read_json_list, read_text
from llava_teamlora.evaluation.types import Benchmark, Need, Sample, Scores, Verdict


class Small(Benchmark):
    """A question file made from an official one, and a folder of pictures."""

    name = "small"
    summary = "for tests"
    metric = "accuracy"
    version = 1
    max_new_tokens = 4
    groups = ()
    file = "llava_small.jsonl"

    def folder(self, data_root: Path | None) -> Path:
        return (data_root or Path("eval")) / "Small"

    def needs(self, data_root: Path | None = None) -> list[Need]:
        folder = self.folder(data_root)
        official = Need(folder / "official.json", "the truth", "https://example.org/small")
        return [
            official,
            Need(
                folder / self.file, "LLaVA's questions", "LLaVA's eval.zip", made_from=(official, self.tokens(folder))
            ),
            Need(folder / "images", "the pictures", "COCO", pictures=True),
        ]

    def tokens(self, folder: Path) -> Need:
        """Read by ``build`` alone."""
        return Need(folder / "tokens.json", "the tokens", "https://example.org/tokens")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        folder = self.folder(data_root)
        read_text(folder / self.file)
        return [
            Sample(f"k{i}", i, row["question"], ("x",), image=folder / "images" / row["image"])
            for i, (_, row) in enumerate(read_json_list(folder / "official.json"))
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        folder = self.folder(data_root)
        rows = [
            {"question_id": i, "image": row["image"], "text": row["question"] + " é"}
            for i, (_, row) in enumerate(read_json_list(folder / "official.json"))
        ]
        return {folder / self.file: rows}

    def judge(self, sample: Sample, text: str) -> Verdict:
        return Verdict(text, float(text in sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        return grouped_mean(samples, verdicts, self.groups)


BENCH = Small()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official files of three questions about two pictures; "small" is the only benchmark."""
    for name in list(BENCHMARKS):
        monkeypatch.delitem(BENCHMARKS, name)
    monkeypatch.setitem(BENCHMARKS, "small", BENCH)
    folder = tmp_path / "eval" / "Small"
    (folder / "images").mkdir(parents=True)
    rows = [{"question": f"question {i}", "image": f"{i // 2}.png"} for i in range(3)]
    (folder / "official.json").write_text(json.dumps(rows))
    (folder / "tokens.json").write_text("")
    for picture in ("0.png", "1.png"):
        (folder / "images" / picture).write_bytes(b"a picture")
    return folder


def run(*arguments: str, data: Path) -> int:
    return main(["evaluate", *arguments, "--data_root", str(data.parent)])


def test_what_is_missing_and_what_then_is_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "small", data=data) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("not ready  small\n")
    remedy = "from LLaVA's eval.zip, or llava-teamlora evaluate build small"
    assert f"missing: {data / 'llava_small.jsonl'} (LLaVA's questions); {remedy}\n" in shown
    assert "to build" not in shown  # all that build reads is there
    assert "cannot be read" not in shown and shown.endswith("0 of 1 ready\n")

    assert run("build", "small", data=data) == 0
    assert capsys.readouterr().out == f"written: {data / 'llava_small.jsonl'} (3 rows)\n"
    assert run("check", data=data) == 0
    shown = capsys.readouterr().out
    assert "ready      small" in shown and "3 questions, 2 pictures" in shown and "scored here" in shown
    assert shown.endswith("1 of 1 ready\n")


def test_missing_pictures_are_counted_and_the_first_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(BENCH, data.parent)
    (data / "images" / "1.png").unlink()
    assert run("check", "small", data=data) == 1
    assert f"missing: 1 of 2 pictures, first {data / 'images' / '1.png'}" in capsys.readouterr().out
    assert run("check", "small", "--json", data=data) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["ready"] is False
    found = content["benchmarks"]["small"]
    assert (found["questions"], found["pictures"], found["absent"], found["error"]) == (3, 2, [], None)
    assert found["absent_pictures"] == {"count": 1, "first": [str(data / "images" / "1.png")]}
    assert len(found["data_sha256"]) == 64


def test_empty_pictures_are_not_ready(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a copy that broke off leaves them: there, and of 0 bytes."""
    build(BENCH, data.parent)
    first = data / "images" / "1.png"
    first.write_bytes(b"")
    assert run("check", "small", data=data) == 1
    shown = capsys.readouterr().out
    assert "not ready  small" in shown and f"empty: 1 of 2 pictures have 0 bytes, first {first}" in shown
    assert run("check", "small", "--json", data=data) == 1
    found = json.loads(capsys.readouterr().out)["benchmarks"]["small"]
    assert found["empty_pictures"] == {"count": 1, "first": [str(first)]} and found["absent_pictures"]["count"] == 0
    with pytest.raises(UserError, match=r"1\.png: has 0 bytes; 1 of 2 pictures are empty, get them anew"):
        check_pictures(BENCH.load(data.parent))


def test_what_loads_the_files_points_to_their_sources(data: Path) -> None:
    """Whatever command it is that finds them missing: gqa's and textvqa's own errors name no source."""
    build(BENCH, data.parent)
    (data / "official.json").unlink()
    hint = rf"; llava-teamlora evaluate check small --data_root {data.parent} lists what it needs and where to get it$"
    with pytest.raises(UserError, match=rf"official\.json: cannot be read \(No such file or directory\){hint}"):
        load_samples(BENCH, data.parent)
    assert "evaluate check" not in str(check(BENCH, data.parent).error)  # which has the source itself
    assert ready({"small": BENCH}, data.parent)[1] == {
        "small": f"{data / 'official.json'} is missing; llava-teamlora evaluate check small says where to get it"
    }


def test_a_missing_official_file_says_where_it_is_to_be_had(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "official.json").unlink()
    assert run("check", "small", data=data) == 1
    assert "official.json (the truth); from https://example.org/small" in capsys.readouterr().out
    assert run("build", "small", data=data) == 1
    assert "official.json (the truth), from https://example.org/small" in capsys.readouterr().err


def test_what_only_building_reads_is_named_with_its_source(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "tokens.json").unlink()
    assert run("check", "small", data=data) == 1
    shown = capsys.readouterr().out
    assert f"to build from: {data / 'tokens.json'} (the tokens); from https://example.org/tokens\n" in shown
    assert run("check", "small", "--json", data=data) == 1
    (found,) = json.loads(capsys.readouterr().out)["benchmarks"]["small"]["absent_inputs"]
    assert found == {
        "path": str(data / "tokens.json"),
        "what": "the tokens",
        "source": "https://example.org/tokens",
    }
    assert run("build", "small", data=data) == 1
    assert "small: to build from is missing: " in (told := capsys.readouterr().err) and "example.org/tokens" in told
    # What building reads does not matter once the file is there.
    (data / "tokens.json").write_text("")
    build(BENCH, data.parent)
    (data / "tokens.json").unlink()
    assert run("check", "small", data=data) == 0


def test_no_questions_are_no_benchmark(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "official.json").write_text("[]")
    build(BENCH, data.parent)
    assert run("check", "small", data=data) == 1
    assert "small: its files hold no questions" in capsys.readouterr().out
    answers = data / "a.jsonl"
    answers.write_text("")
    assert run("score", "small", "--answers", str(answers), data=data) == 1
    assert "small: its files hold no questions" in capsys.readouterr().err


def test_a_broken_file_is_named_with_its_fault(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(BENCH, data.parent)
    (data / "official.json").write_text("[1]")
    assert run("check", "small", data=data) == 1
    assert "official.json, index 0: expected an object, found int" in capsys.readouterr().out
    assert not check(BENCH, data.parent).absent


def test_an_unknown_name_is_not_checked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "smal", data=data) == 1
    assert "did you mean 'small'?" in capsys.readouterr().err


def test_building_again_changes_nothing(data: Path) -> None:
    (first,) = build(BENCH, data.parent)
    path = data / "llava_small.jsonl"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert first.state == "written" and before[0].isascii()  # as LLaVA's files: \u00e9
    assert json.loads(before[0].splitlines()[2]) == {"question_id": 2, "image": "1.png", "text": "question 2 é"}
    (again,) = build(BENCH, data.parent)
    assert (again.state, again.rows) == ("same as there", 3)
    # The same rows, written otherwise: what is there stays.
    path.write_text("".join(json.dumps(json.loads(line), ensure_ascii=False) + "\n" for line in before[0].splitlines()))
    (again,) = build(BENCH, data.parent)
    assert again.state == "same as there" and "é" in path.read_text(encoding="utf-8")


def edited(text: str, rows: int | None) -> str:
    lines = text.splitlines(keepends=True)[:rows]
    return "".join(lines[:1]) + "".join(line.replace("question 1", "question one") for line in lines[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: edited(t, None),
            r"3 rows, 3 would be built; 1 of them differ, first line 2: text is 'question one é', ",
        ),
        (lambda t: edited(t, 1), r"holds 1 rows, 3 would be built\. Keep it"),
        (
            lambda t: t.replace('{"question_id": 0, ', "{").replace('0.png", ', '0.png", "question_id": 0, '),
            "fields' order",
        ),
        (lambda t: t.replace('"question_id": 2', '"question_id": "2"'), "line 3: question_id is '2', not 2"),
        (lambda t: t + "{", "line 4: broken JSON"),
    ],
)
def test_other_content_is_kept_unless_told(change: Any, message: str, data: Path) -> None:
    build(BENCH, data.parent)
    path = data / "llava_small.jsonl"
    built = path.read_text()
    path.write_text(change(built))
    with pytest.raises(UserError, match=message):
        build(BENCH, data.parent)
    assert path.read_text() == change(built)
    assert build(BENCH, data.parent, overwrite=True)[0].state == "written"
    assert path.read_text() == built


def test_a_json_list_is_built_as_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BENCH, "file", "llava_small.json", raising=False)
    assert build(BENCH, data.parent)[0].state == "written"
    assert [row["question_id"] for row in json.loads((data / "llava_small.json").read_text())] == [0, 1, 2]
    assert build(BENCH, data.parent)[0].state == "same as there"


def test_the_list(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")  # a pipe's 80 and narrower terminals show whole words
    assert main(["evaluate", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("small")
    assert lines[place : place + 3] == ["small", "    for tests", "    accuracy; scored here; files in Small"]
    assert max(map(len, lines)) <= 60
