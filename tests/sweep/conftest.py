"""Sweeps over a fake program."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_world import World

from llava_teamlora.sweep import flags, jobs

FAKE = str(Path(__file__).parent / "fake_program.py")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A grid's folder; the fake program does the work."""
    monkeypatch.setattr(jobs, "PROGRAM", (sys.executable, FAKE))
    monkeypatch.setattr(flags, "CHECK", (sys.executable, FAKE, "check"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = World(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
        elif process.stdout and not process.stdout.closed:
            process.stdout.close()
