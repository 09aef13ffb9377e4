"""Two processes that train together, kept from test to test: starting them costs more than what they do."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("pair_worker.py")
_KILLED = {"status": -1, "error": "was killed: it took too long, or waited for the other"}
_DIED = {"status": -2, "error": "died"}
_START_S, _COMMAND_S, _AFTER_FAILURE_S = 120.0, 60.0, 3.0


@dataclass(frozen=True)
class Outcome:
    """How one process fared, and all it printed. Status 1 is a UserError, 2 another, below 0: it was killed or died."""

    status: int
    error: str | None
    output: str


class ProcessPair:
    """Starts its processes when they are first needed, and anew after one of them failed or hung.

    Args:
        folder: for what the processes print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = [folder / f"process{rank}.log" for rank in (0, 1)]
        self.processes: list[subprocess.Popen[str]] = []

    def train(
        self,
        argv: Sequence[str],
        *flags: str,
        plans: Sequence[str] = (),
        environments: Sequence[dict[str, str]] = ({}, {}),
        folders: Sequence[Path] | None = None,
    ) -> list[Outcome]:
        """Run ``llava-teamlora train`` on both.

        Args:
            argv: flags.
            flags: more of them.
            plans: names of functions in plans.py.
            environments: further variables for each process.
            folders: where each of them runs.

        Returns:
            How each fared. Both are killed after a minute, or as much longer as the machine is crowded.
        """
        if not self.processes:
            self._start()
        seconds = _COMMAND_S * _crowd()
        begin = [log.stat().st_size for log in self.logs]
        places = folders or (self.folder, self.folder)
        for process, environment, place in zip(self.processes, environments, places, strict=True):
            told = {"argv": [*argv, *flags], "plans": plans, "environment": environment, "folder": str(place)}
            assert process.stdin is not None
            process.stdin.write(json.dumps({**told, "seconds": seconds}) + "\n")
            process.stdin.flush()
        answers = self._answers(seconds)
        printed = [log.read_bytes()[start:].decode() for log, start in zip(self.logs, begin, strict=True)]
        if any(answer["status"] != 0 for answer in answers) and any(answer["status"] != 1 for answer in answers):
            self.stop()  # nobody knows what they are in the middle of
        return [Outcome(**answer, output=text) for answer, text in zip(answers, printed, strict=True)]

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        shared |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        for rank, log in enumerate(self.logs):
            with log.open("w") as printed:
                process = subprocess.Popen(
                    [sys.executable, str(WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=printed,
                    text=True,
                    env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
            self.processes.append(process)
        ready = self._answers(_START_S * _crowd())  # what they import is not counted
        assert not any(answer["status"] for answer in ready), [log.read_text() for log in self.logs]

    def _answers(self, seconds: float) -> list[dict[str, Any]]:
        """One answer a process; none is that of a process that had to be killed."""
        found: list[dict[str, Any]] = [_KILLED, _KILLED]
        end = time.monotonic() + seconds
        waiting = {process.stdout: rank for rank, process in enumerate(self.processes)}
        while waiting and (ready := select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))[0]):
            for stream in ready:
                line = stream.readline()
                rank = waiting.pop(stream)
                found[rank] = json.loads(line) if line else _DIED
                if found[rank]["status"]:
                    end = min(end, time.monotonic() + _AFTER_FAILURE_S)  # the other one waits for it in vain
        return found

    def stop(self) -> None:
        """Kill the processes."""
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self.processes = []


def _crowd() -> float:
    """How many want each core of this machine, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def succeeded(outcomes: list[Outcome]) -> None:
    """Fail the test with what was printed, unless both processes did what they were told."""
    assert all(outcome.status == 0 for outcome in outcomes), "\n".join(
        f"process {rank}: {outcome.error}\n{outcome.output[-5000:]}" for rank, outcome in enumerate(outcomes)
    )
