"""The commands of a sweep as processes: each in a session of its own, with a log, and never outliving the sweep long.

A child is sent SIGINT to end it: training then saves a checkpoint, evaluation has its answers on the disk. Should the
sweep itself be killed, Linux sends its children the same; elsewhere they go on. Both ways they hold the sweep's lock
until they have ended, so that a second sweep never works on a cell that is still being worked on.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from llava_teamlora.errors import UserError

LOCK_FILE = "sweep.lock"
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 8192
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
ORPHANS_END_S = 60.0
"""How long a sweep waits for what a killed one left."""


class Child:
    """A running command."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str], lock: IO[Any]) -> None:
        self.started = time.monotonic()
        with _opened(log) as file:
            file.write(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n")
            file.flush()
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                    start_new_session=True,  # a terminal's Ctrl-C is for the sweep, which then ends its children
                    pass_fds=(lock.fileno(),),
                    preexec_fn=_in_child,
                )
            except OSError as error:
                raise UserError(f"{command[0]}: cannot be started ({error.strerror})") from error

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Ask it to save and end. A launcher passes that on to its processes."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and all it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _opened(log: Path) -> IO[str]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{log}: cannot be written ({error.strerror})") from error


def _in_child() -> None:
    """Runs before the command: it hears SIGINT, also where a shell has put the sweep into the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)  # and gets it when the sweep dies


class Interruption:
    """Counts Ctrl-C, SIGTERM and the terminal's end while it is entered."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    _ONE_PRESS_S = 0.5

    def __init__(self) -> None:
        self.count = 0
        self._last = -self._ONE_PRESS_S
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # What is ignored stays so: nohup's sweep goes on when the terminal is gone.
        heard = [number for number in self._SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._former = {number: signal.signal(number, self._heard) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: object) -> None:
        # Supervisors send several signals at once, which mean one.
        now = time.monotonic()
        self.count += now - self._last > self._ONE_PRESS_S
        self._last = now


@contextmanager
def locked(out: Path) -> Iterator[IO[Any]]:
    """Have a sweep's folder to oneself, until the last child has ended.

    Raises:
        UserError: another sweep has it, or the folder cannot be made.
    """
    path = out / LOCK_FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another `out`") from error
    with file:
        _take(file, out)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _take(file: IO[Any], out: Path) -> None:
    waited_until = time.monotonic() + ORPHANS_END_S
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip()
            if not pid or _alive(int(pid)):
                raise UserError(f"{out}: another sweep is at work there (process {pid or 'unknown'})") from error
            if time.monotonic() > waited_until:
                raise UserError(
                    f"{out}: a sweep was killed there (process {pid}), and a command of its still runs; wait for it, "
                    f"or end it: its folder stands in the command line (ps -ef | grep {out.name})"
                ) from error
        except OSError as error:
            print(
                f"{out}: its file system has no locks; start no second sweep there ({error.strerror})", file=sys.stderr
            )
            return
        if not told:
            print(f"{out}: a killed sweep's commands are still ending; waiting for them", file=sys.stderr)
            told = True
        time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def last_lines(log: Path, count: int = 12) -> list[str]:
    """The end of a log; of a progress bar what it showed last."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
        lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
        return [line for line in lines if line.strip()][-count:]
    return []
