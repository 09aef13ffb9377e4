"""What the README shows works: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.training.flags.command_line import parse_arguments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FURTHER = [ROOT / "eval" / "README.md", ROOT / "playground" / "data" / "README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Words of every ``llava-teamlora …`` line of the shell blocks, continuation lines joined."""
    lines = "\n".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("llava-teamlora ")]


def test_python_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path, capture_output=True, timeout=120)
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()


EVALUATE = [words for words in commands(README) if words[1] == "evaluate"]


@pytest.mark.parametrize("words", [words for words in commands(README) if words not in EVALUATE], ids=" ".join)
def test_commands_parse(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT if words[1] == "train" else tmp_path)
    arguments = words[1:]
    if "--help" in arguments:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
    elif arguments[0] == "train":
        parse_arguments(arguments[1:])
    elif arguments[0] == "doctor":  # 1 where something would stop a training on this machine
        assert main(arguments) in (0, 1) and "torch" in capsys.readouterr().out
    else:  # parsed whole, then stopped by a run folder that is not here
        assert main(arguments) == 1
        assert "runs/easy-vqa-teamlora" in capsys.readouterr().err


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the embedded model and the fixtures, where commands may write."""
    for name in ("eval", "playground"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_evaluation_runs(elsewhere: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(EVALUATE) >= 4
    for words in EVALUATE:
        assert main(words[1:]) == 0, f"{' '.join(words)}: {capsys.readouterr()}"
    assert (elsewhere / "runs" / "try" / "page" / "index.html").is_file()


def test_the_evaluation_page_runs_as_it_stands(elsewhere: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """One command after the other, on the fixtures; what they write goes elsewhere."""
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert len(commands(text)) >= 10
    for words in commands(text):
        assert main(words[1:]) == 0, f"{' '.join(words)}: {capsys.readouterr()}"
    for block in blocks("python", text):
        subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path, capture_output=True, timeout=120)
    tour = tmp_path / "runs" / "tour"
    assert "Avg." in (tour / "table.md").read_text(encoding="utf-8") and (tour / "page" / "index.html").is_file()


def test_scripts_named_exist() -> None:
    for page in PAGES:
        if page.name == "evaluation_agreement.md":  # tells of other repositories' scripts
            continue
        for name in re.findall(r"(?:scripts|playground|docs|tests)/[\w./-]+\w", page.read_text(encoding="utf-8")):
            if not name.startswith(("playground/data/easy-vqa", "playground/data/eval", "playground/data/cme")):
                assert (ROOT / name).exists() or name == "playground/data", f"{page.name} names {name}"


@pytest.mark.parametrize("page", [*PAGES, *FURTHER], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", prose):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_wrong_flag_would_be_seen() -> None:
    with pytest.raises(UserError):
        parse_arguments(["--model_name_or_path", "x", "--data_path", "y", "--output_dir", "z", "--nonsense", "1"])
