"""A grid in a folder, swept in this process or one of its own, and what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from llava_teamlora.cli import main

HERE = Path(__file__).parent


class World:
    """A grid in a folder, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.grid = folder / "grid.yaml"
        self.started: list[subprocess.Popen[str]] = []

    def write(self, **content: Any) -> Path:
        """Write the grid; ``out`` is known."""
        self.grid.write_text(yaml.safe_dump({"out": str(self.out), **content}, sort_keys=False), encoding="utf-8")
        return self.grid

    def sweep(self, *words: str) -> int:
        """Run it in this process."""
        return main(["sweep", str(self.grid), *words])

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run it in a process of its own."""
        command = [sys.executable, str(HERE / "sweep_with_fake.py"), str(self.grid), *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.started.append(process)
        return process

    def record(self) -> dict[str, dict[str, Any]]:
        """Cells of sweep.json by name."""
        return {cell["name"]: cell for cell in json.loads((self.out / "sweep.json").read_text())["cells"]}

    def statuses(self) -> dict[str, str]:
        """Their statuses."""
        return {name: cell["status"] for name, cell in self.record().items()}

    def journal(self, event: str = "") -> list[dict[str, Any]]:
        """What the fake program noted."""
        path = self.out / "journal.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return [row for row in rows if row["event"] == event or not event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the fake program has noted something so often."""
        for _ in range(300):
            if len(self.journal(event)) >= count:
                return self.journal(event)
            time.sleep(0.05)
        raise AssertionError(f"no {event}: {[p.communicate(timeout=5) for p in self.started if p.poll() is not None]}")
