"""The commands as a user starts them: from the first import to the end, they ask for no other machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import outbound
with outbound.watched() as calls:
    from llava_teamlora.cli import main
    try:
        status = main(sys.argv[1:])
    finally:
        print("outbound:", calls, flush=True)
sys.exit(status)
"""


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that listens, and the address that it prints."""
    offline = {name for name in os.environ if name.startswith(("HF_", "TRANSFORMERS_", "GRADIO_"))}
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    command = [sys.executable, "-u", "-c", PROGRAM, str(Path(__file__).parent), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**environment, "NO_PROXY": "*"}
    )
    too_late = threading.Timer(90, process.kill)
    too_late.start()
    assert process.stdout is not None
    try:
        said = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, found[0]
    finally:
        too_late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(("command", "page"), (("chat", "/config"), ("serve", "/v1/models")))
def test_no_other_machine_is_asked(run_folders: dict[str, Path], command: str, page: str) -> None:
    with started(command, str(run_folders["teamlora"]), "--port", "0", "--device", "cpu") as (process, url):
        assert httpx.get(url + page, timeout=30, trust_env=False).status_code == 200
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate()
    assert "outbound: []" in rest, rest
    assert process.returncode in (0, 130)
