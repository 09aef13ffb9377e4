"""scripts/easy_vqa_data.py, run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_teamlora.data.records import load_records
from llava_teamlora.evaluation.benchmarks.easy_vqa import default_root, read_questions

SCRIPT = Path(__file__).parents[2] / "scripts" / "easy_vqa_data.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def asked(records: list[Any]) -> list[tuple[str, str, str]]:
    """(picture, question, answer) of all records, sorted."""
    return sorted(
        (record.images[0], question.text.removeprefix("<image>\n"), answer.text)
        for record in records
        for question, answer in zip(record.turns[::2], record.turns[1::2], strict=True)
    )


def test_all_questions_are_there_once(tmp_path: Path) -> None:
    done = run("--out", tmp_path / "data", "--validation_pictures", 50)
    assert done.returncode == 0, done.stderr
    train = load_records(tmp_path / "data" / "train.json")
    validation = load_records(tmp_path / "data" / "validation.json")
    assert (len(train), len(validation)) == (3950, 50)
    questions = read_questions(default_root(), "train")
    assert asked([*train, *validation]) == sorted((f"{i}.png", q, a) for q, a, i in questions)
    assert not {r.images for r in train} & {r.images for r in validation}
    assert all(record.turns[0].text.startswith("<image>\n") for record in train)
    folder = Path(done.stdout.splitlines()[-1])
    assert all((folder / record.images[0]).is_file() for record in validation)
    assert run("--print_image_folder").stdout == f"{folder}\n"


def test_seeds(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("--out", tmp_path / name, "--seed", seed).returncode == 0
    texts = {name: (tmp_path / name / "train.json").read_bytes() for name in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]


def test_replay(tmp_path: Path, write_json: Callable[..., str], rows: list[dict[str, Any]]) -> None:
    text_only = [{**rows[2], "id": i} for i in range(30)]
    path = write_json(text_only, "talk.json")
    done = run("--out", tmp_path / "data", "--replay", path, "--replay", f"{path}:7", "--validation_pictures", 0)
    assert done.returncode == 0, done.stderr
    assert "37 text-only conversations" in done.stdout
    train = load_records(tmp_path / "data" / "train.json")
    replayed = [index for index, record in enumerate(train) if not record.images]
    assert len(replayed) == 37 and len(train) == 4037
    assert replayed[0] < 1000 and replayed[-1] > 3000  # mixed in, not appended
    assert all(record.task == ("easy_vqa" if record.images else "replay") for record in train)
    assert not (tmp_path / "data" / "validation.json").exists()


def test_mistakes(tmp_path: Path, write_json: Callable[..., str], rows: list[dict[str, Any]]) -> None:
    pictured, text_only = write_json(rows, "p.json"), write_json(rows[2:], "t.json")
    for arguments, message in (
        ([], "--out DIR is missing"),
        (["--out", tmp_path, "--replay", tmp_path / "no.json"], "no.json: no such file"),
        (["--out", tmp_path, "--replay", pictured], "record 0 (id a): has a picture; --replay takes text-only"),
        (["--out", tmp_path, "--replay", f"{text_only}:2"], "holds only 1 records"),
        (["--out", tmp_path, "--validation_pictures", 4000], "must be from 0 to 3999"),
        (["--out", text_only], "cannot be written"),
    ):
        done = run(*arguments)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and message in done.stderr, done.stderr
        assert not (tmp_path / "train.json").exists()


def test_help_teaches() -> None:
    text = run("--help").stdout
    assert "--replay" in text and "validation.json" in text and "examples:" in text
