"""Lines typed and piped: those that go on in the next, completion, and what is kept of them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_teamlora.serving.lines import completions, continued, history_file, paths


def typed(*lines: str) -> Callable[[str], str]:
    """Gives these lines, then the end of input."""
    waiting = iter(lines)

    def read(prompt: str) -> str:
        line = next(waiting, None)
        if line is None:
            raise EOFError
        return line

    return read


def test_a_backslash_goes_on_in_the_next_line() -> None:
    read = typed("one", "two \\", "three\\", "", "four\\")
    assert [continued(read) for _ in range(3)] == ["one", "two \nthree\n", "four"]
    with pytest.raises(EOFError):
        continued(read)


def test_commands_and_what_follows_them_are_completed() -> None:
    def complete(name: str, begun: str) -> list[str]:
        return {"/model": [model for model in ("base", "a run") if model.startswith(begun)]}.get(name, [])

    commands = ["/image", "/images", "/model"]
    assert completions("/im", commands, complete) == ["/image ", "/images "]
    assert completions("/model a", commands, complete) == ["/model a run"]
    assert completions("/model ", commands, complete) == ["/model base", "/model a run"]
    assert completions("im", commands, complete) == completions("/other x", commands, complete) == []


def test_paths_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "x.png").touch()
    (tmp_path / "a.png").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths("") == ["a folder/", "a.png"] and paths(".h") == [".hidden"]
    assert paths("a f") == ["a folder/"] and paths("a folder/") == ["a folder/x.png"]
    assert paths("~/a.") == ["~/a.png"] and paths(f"{tmp_path}/a.") == [f"{tmp_path}/a.png"]
    assert paths("nowhere/") == []


def test_history_lies_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert history_file() == Path("/state/llava-teamlora/history")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/me")
    assert history_file() == Path("/home/me/.local/state/llava-teamlora/history")


_READER = """
import sys
from pathlib import Path
from llava_teamlora.serving.lines import line_reader
with line_reader(["/image", "/undo"], lambda name, begun: [], Path(sys.argv[1])) as read:
    try:
        while True:
            print("got", repr(read()), flush=True)
    except EOFError:
        print("end", flush=True)
"""


def at_a_terminal(history: Path, *keys: str) -> str:
    """What a terminal shows while these keys are typed, each once a prompt stands there."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "dumb", "INPUTRC": os.devnull}
    process = subprocess.Popen(
        [sys.executable, "-c", _READER, str(history)], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    shown = b""
    try:
        for number, typed_keys in enumerate(keys, start=1):
            deadline = time.monotonic() + 60
            while shown.count(b"> ") < number and time.monotonic() < deadline:
                shown += _available(ours)
            os.write(ours, typed_keys.encode())
        while chunk := _available(ours):
            shown += chunk
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(ours)
    return shown.decode()


def _available(terminal: int) -> bytes:
    """What is shown next; nothing once the program has gone."""
    if not select.select([terminal], [], [], 60)[0]:
        return b""
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux tells that the other side has closed
        return b""


def test_what_was_typed_can_be_called_back_the_next_time(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    history = tmp_path / "deep" / "history"
    shown = at_a_terminal(history, "a red shape\n", "/un\t\n", "\x04")
    assert "got 'a red shape'" in shown and "got '/undo '" in shown and "end" in shown
    assert history.read_text().splitlines() == ["a red shape", "/undo "]
    assert history.stat().st_mode & 0o077 == 0  # nobody else's to read
    shown = at_a_terminal(history, "\x10\x10\n", "\x04")  # Ctrl-P twice: the line before the last
    assert "got 'a red shape'" in shown
    assert history.read_text().splitlines() == ["a red shape", "/undo ", "a red shape"]
