"""Runs ``llava-teamlora train`` in children of this process, each with a misfortune; prints how they ended as JSON.

Children are forked after all imports, which take longer than their runs. Standard input: a JSON list of commands. Each
has an ``argv``, which ends with the run folder, and one of

- ``kill_at``: die by SIGKILL before that change to the run folder;
- ``step`` and ``limit``: while that step's checkpoint (-1: the run's end) is saved, and from then on, no file may grow
  beyond ``limit`` bytes, as on a disk that is full.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from crashes import watching

from llava_teamlora.cli import main
from llava_teamlora.training import finish
from llava_teamlora.training.trainer import LlavaTrainer


def fill_disk(step: int, limit: int) -> None:
    """Let no file grow beyond ``limit`` bytes while that step's checkpoint, or the run's end (step -1), is saved."""
    owner, name = (finish, "_save_model") if step < 0 else (LlavaTrainer, "_save_checkpoint")
    real = getattr(owner, name)

    def limited(*args: Any) -> Any:
        if step < 0 or args[0].state.global_step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return real(*args)

    setattr(owner, name, limited)


def child(command: dict[str, Any]) -> int:
    argv = command["argv"]
    if "limit" in command:
        fill_disk(command["step"], command["limit"])
    left = command.get("kill_at", -1)

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with watching(Path(argv[-1]), count):
        return main(["train", *argv])


def run(command: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        status = child(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    os.close(write)
    with os.fdopen(read, errors="replace") as pipe:
        output = pipe.read()
    return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "output": output}


if __name__ == "__main__":
    print(json.dumps([run(command) for command in json.load(sys.stdin)]))
