"""``--version``: the template that an untuned base is asked with, told in the manifest; a run folder has its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_text_bases import make_text_base

from llava_teamlora.cli import main

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"


@pytest.fixture
def base(tmp_path: Path) -> str:
    return make_text_base(tmp_path / "base", "qwen2_instruct")


@pytest.mark.parametrize(
    ("flags", "version", "begin", "end"),
    [
        ([], "v1", "A chat between a curious user", " ASSISTANT:"),
        (["--version", "cme"], "cme", "", "<|im_end|>"),
        (["--version", "chat"], "chat", "<|im_start|>system\nYou know colours.", "<|im_start|>assistant\n"),
    ],
)
def test_an_untuned_base(base: str, tmp_path: Path, flags: list[str], version: str, begin: str, end: str) -> None:
    out = tmp_path / "out"
    given = ["--model", base, "--device", "cpu", "--data_root", str(FIXTURES), "--out", str(out), "--limit", "2"]
    assert main(["evaluate", "predict", "nq", *given, "--max_new_tokens", "2", *flags]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["version"] == version
    assert manifest["first_prompt"].startswith(begin) and manifest["first_prompt"].endswith(end)


def test_answers_of_two_templates_are_not_mixed(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", base, "--device", "cpu", "--data_root", str(FIXTURES), "--out", str(tmp_path / "out")]
    given += ["--limit", "2", "--max_new_tokens", "2"]
    assert main(["evaluate", "predict", "nq", *given, "--version", "cme"]) == 0
    assert main(["evaluate", "predict", "nq", *given]) == 1
    assert "answers made otherwise (model.version was cme, is v1)" in capsys.readouterr().err
    assert main(["evaluate", "predict", "nq", *given, "--version", "cmee"]) == 1
    assert "--version 'cmee' is not a template" in capsys.readouterr().err
    assert main(["evaluate", "predict", "nq", "--endpoint", "http://nowhere", "--version", "cme"]) == 1
    assert "--version is for a model loaded here" in capsys.readouterr().err


def test_a_question_that_marks_a_picture_is_named(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data" / "nq" / "NQ-open.dev.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"question": "what does <image> stand for", "answer": ["a picture"]}) + "\n")
    given = ["--model", base, "--device", "cpu", "--data_root", str(file.parents[1]), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "predict", "nq", *given]) == 1
    assert "dev/0: the text holds <image>, which marks a picture's place" in capsys.readouterr().err


def test_the_terminal_asks_a_base_likewise(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "llava_teamlora.cli", "cli", base, "--device", "cpu", "--max_new_tokens", "2"]
    asked = subprocess.run(
        [*command, "--version", "chat"], input="hello\n", capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == 0, asked.stderr
    assert main(["cli", base, "--version", "no_such"]) == 1
    assert "--version 'no_such' is not a template" in capsys.readouterr().err
