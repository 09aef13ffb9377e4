"""Lines that a person types or a program pipes in: editing, history, completion, and lines that go on in the next.

In: standard input. Out: a function that gives the next line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_KEPT = 1000  # lines of history


def history_file() -> Path | None:
    """Where typed lines are kept: ``$XDG_STATE_HOME/llava-teamlora/history``; None for who has no home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    return Path(state, "llava-teamlora", "history") if os.path.isabs(state) else None


@contextmanager
def line_reader(
    commands: Sequence[str], complete: Callable[[str, str], list[str]], history: Path | None
) -> Iterator[Callable[[], str]]:
    """Read lines inside the context; afterwards what was typed is kept.

    Args:
        commands: what a line may begin with.
        complete: of a command and what follows it, what that may become.
        history: file to keep lines in; None keeps none.

    Yields:
        Gives the next line, and raises EOFError at the end. Of a pipe, bytes that are no text come as surrogates.
    """
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):
            # A strict reader fails on the lines around a bad one too, for it decodes them as one block.
            sys.stdin.reconfigure(errors="surrogateescape")
        yield lambda: continued(lambda prompt: input())
        return
    try:
        import readline  # its import is what gives input() its editing keys
    except ImportError:
        yield lambda: continued(input)
        return
    _complete_with(readline, commands, complete)
    before = _remembered(readline, history)
    try:
        yield lambda: continued(input)
    finally:
        if history is not None:
            _keep(readline, history, before)


def continued(read: Callable[[str], str]) -> str:
    """The next line, with those after it as long as they end in a backslash, which becomes a line break.

    Raises:
        EOFError: there is no next line.
    """
    lines = [read("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(read(". "))
        except EOFError:
            break
    return "\n".join(lines)


def completions(line: str, commands: Sequence[str], complete: Callable[[str, str], list[str]]) -> list[str]:
    """What a line with a command may become; see :func:`line_reader`. A question is nobody's to complete."""
    if not line.startswith("/"):
        return []
    name, blank, rest = line.partition(" ")
    if not blank:
        return [command + " " for command in commands if command.startswith(name)]
    return [f"{name} {found}" for found in complete(name, rest)]


def paths(begun: str) -> list[str]:
    """Files and folders whose path begins so; a folder's ends in a slash."""
    folder, name = os.path.split(begun)
    found = []
    with suppress(OSError):
        for entry in os.scandir(os.path.expanduser(folder) or "."):
            if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
                found.append(os.path.join(folder, entry.name) + ("/" if entry.is_dir() else ""))
    return sorted(found)


def _complete_with(readline: Any, commands: Sequence[str], complete: Callable[[str, str], list[str]]) -> None:
    def candidate(line: str, number: int) -> str | None:
        found = completions(line, commands, complete)
        return found[number] if number < len(found) else None

    readline.set_completer(candidate)
    readline.set_completer_delims("\n")  # the whole line is completed, for paths may hold blanks
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def _remembered(readline: Any, history: Path | None) -> int:
    """Bring back the lines of before; how many they are."""
    if history is not None:
        with suppress(OSError):  # the first time there are none
            readline.read_history_file(history)
    return readline.get_current_history_length()


def _keep(readline: Any, history: Path, before: int) -> None:
    """Put the new lines behind those that this and other terminals have kept."""
    try:
        history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        history.touch(mode=0o600)
        readline.set_history_length(_KEPT)
        if hasattr(readline, "append_history_file"):
            readline.append_history_file(readline.get_current_history_length() - before, history)
        else:  # libedit has none
            readline.write_history_file(history)
    except OSError as error:
        print(f"{history}: the lines typed cannot be kept ({error.strerror})", file=sys.stderr)
