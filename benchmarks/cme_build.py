"""Build a mix of 200,000 made rows: time, memory, and whether one killed halfway ends in the same bytes.

Rows of six sets in their published forms, English and Chinese, with duplicates and leaks planted at known places; every
one must be found, and nothing else. Each build is a process of its own; its memory is the peak of what it held.

  python benchmarks/cme_build.py --json benchmarks/results/cme_build.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

from llava_teamlora.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
_SHARES = {"tldr": 0.1, "anli": 0.2, "webqa": 0.05, "nq": 0.15, "openorca": 0.3, "belle": 0.2}
"""Of all rows."""

_WORDS = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in ("a", "e", "io", "ou") for c in ("", "l", "n", "rt", "st", "ck")]
_SIGNS = [chr(code) for code in range(0x4E00, 0x4E00 + 900)]


@dataclass(frozen=True)
class Settings:
    """Of the made sets.

    Attributes:
        rows: of all sets together.
        asked: evaluation items of each of four tasks.
        planted: every so many rows are a leak, and as many the copy of the row before.
        seed: of their words.
    """

    rows: int = 200_000
    asked: int = 2_500
    planted: int = 200
    seed: int = 0


class Text:
    """Made sentences."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def english(self, least: int, most: int) -> str:
        """So many words."""
        return " ".join(self._rng.choices(_WORDS, k=self._rng.randint(least, most)))

    def chinese(self, least: int, most: int) -> str:
        """So many characters."""
        return "".join(self._rng.choices(_SIGNS, k=self._rng.randint(least, most)))


def row(name: str, text: Text, asked: str | None) -> tuple[dict[str, Any], str]:
    """A row of a set in its published form, and its question; one that holds an evaluation item if one is given."""
    if name == "tldr":
        post = asked or text.english(150, 350)
        return {"id": "x", "post": post, "summary": text.english(15, 30)}, post
    if name == "anli":
        premise = asked or text.english(40, 70)
        return {"uid": "x", "context": premise, "hypothesis": text.english(8, 15), "label": "n"}, premise
    if name == "webqa":
        question = asked or text.chinese(10, 20)
        return {"id": "x", "input": question, "output": text.chinese(2, 6)}, question
    if name == "nq":
        question = asked or text.english(7, 12)
        return {"question": question, "answer": [text.english(1, 3)]}, question
    if name == "openorca":
        question = f"{text.english(20, 40)} {asked or text.english(60, 120)} {text.english(20, 40)}"
        return {"system_prompt": "Be exact.", "question": question, "response": text.english(50, 150)}, question
    question = f"{text.chinese(10, 20)}。{asked or text.chinese(20, 50)}"
    return {"instruction": question, "input": "", "output": text.chinese(50, 150)}, question


_FILES = {
    "tldr": "train.jsonl",
    "anli": "R1/train.jsonl",
    "webqa": "train.jsonl",
    "nq": "NQ-open.train.jsonl",
    "openorca": "1M-GPT4-Augmented.jsonl",
    "belle": "Belle_open_source_1M.json",
}
_TESTS = {"tldr": "test.jsonl", "anli": "R1/test.jsonl", "webqa": "test.jsonl", "nq": "NQ-open.dev.jsonl"}
_ASKED_OF = {"openorca": "tldr", "belle": "webqa"}
"""Whose items are planted in sets that are no task."""


def write_sets(folder: Path, settings: Settings) -> dict[str, tuple[set[int], int]]:
    """Write training and evaluation files; of each set the lines that leak, and how many copies there are."""
    text = Text(settings.seed)
    asked: dict[str, list[str]] = {}
    for name, file in _TESTS.items():
        made = [row(name, text, None) for _ in range(settings.asked)]
        asked[name] = [question for _, question in made]
        _write(folder / "eval" / name / file, (content for content, _ in made))
    planted = {}
    for name, file in _FILES.items():
        leaks: set[int] = set()
        count = int(settings.rows * _SHARES[name])
        rows = _rows(name, count, text, asked[_ASKED_OF.get(name, name)], settings, leaks)
        _write(folder / "train" / name / file, rows)
        planted[name] = (leaks, count // settings.planted)
    for number in (2, 3):
        _write(folder / f"train/anli/R{number}/train.jsonl", [row("anli", text, None)[0]])
    return planted


def _rows(
    name: str, count: int, text: Text, asked: list[str], settings: Settings, leaks: set[int]
) -> Iterator[dict[str, Any]]:
    last: dict[str, Any] = {}
    # A WebQA question inside a longer text is found by 13 characters in a row only, so a longer one is planted.
    whole = [item for item in asked if name != "belle" or len(item) >= 13]
    for number in range(1, count + 1):
        if number % settings.planted == 1:
            leaks.add(number)
            last, _ = row(name, text, whole[number // settings.planted % len(whole)])
        elif number % settings.planted:
            last, _ = row(name, text, None)
        yield last  # every so many rows the last again


def _write(path: Path, rows: Any) -> None:
    write_atomically(path, (json.dumps(content, ensure_ascii=False) + "\n" for content in rows))


def command(folder: Path, out: str) -> list[str]:
    """Of a build of all made sets."""
    roots = ["--data_root", str(folder / "train"), "--eval_root", str(folder / "eval")]
    missing = ["--skip_missing", "--skip_missing_eval"]
    caps = [word for name in _FILES for word in ("--cap", f"{name}=10000000")]  # all rows, so that all leaks are met
    build = [sys.executable, "-m", "llava_teamlora.cli", "cme", "build", "--only", *_FILES, *roots, *missing]
    return [*build, *caps, "--out", str(folder / out)]


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    """A build as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command(folder, out), env=environment, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Wait for a build that must succeed: seconds of computing, MiB at its peak."""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build failed (status {status})")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def kill_halfway(folder: Path, out: str, parts: int) -> int:
    """Start a build, kill it when half of its parts are written; how many there were then."""
    process = start(folder, out)
    written = folder / f"{Path(out).stem}.building/parts"
    while len(list(written.glob("*.json"))) < parts // 2:
        if process.poll() is not None:
            raise SystemExit("the build was done before it could be killed")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(written.glob("*.json")))


def check(folder: Path, planted: dict[str, tuple[set[int], int]]) -> dict[str, int]:
    """That all that was planted was found, and nothing else; how much."""
    manifest = json.loads((folder / "mix.manifest.json").read_text(encoding="utf-8"))
    found: dict[str, set[int]] = {name: set() for name in planted}
    for line in (folder / "mix.leaks.jsonl").read_text(encoding="utf-8").splitlines():
        leak = json.loads(line)
        found[leak["source"]].add(int(leak["where"].rpartition(" ")[2]))
    for name, (leaks, copies) in planted.items():
        counts = manifest["sets"][name]
        if found[name] != leaks or counts["duplicates"] != copies:
            odd = sorted(found[name] ^ leaks)[:5]
            raise SystemExit(f"{name}: {counts['duplicates']} duplicates, not {copies}; leaks differ at lines {odd}")
    return {name: manifest["total"][name] for name in ("rows", "duplicates", "leaks_dropped", "kept")}


def run(folder: Path, settings: Settings) -> dict[str, Any]:
    """Write the sets, build them twice, once with a kill."""
    planted = write_sets(folder, settings)
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    began = time.monotonic()
    cpu, peak = finish(start(folder, "mix.jsonl"))
    seconds = time.monotonic() - began
    counts = check(folder, planted)
    parts = sum(-(-int(settings.rows * share) // 20_000) for share in _SHARES.values())
    survived = kill_halfway(folder, "again.jsonl", parts)
    resumed_cpu, resumed_peak = finish(start(folder, "again.jsonl"))
    names = (".jsonl", ".manifest.json", ".leaks.jsonl", ".bad_rows.jsonl")
    same = all(_digest(folder / f"mix{name}") == _digest(folder / f"again{name}") for name in names)
    if not same:
        raise SystemExit("the build that was killed ended in other bytes")
    return {
        "input_mb": round(megabytes),
        "found": counts,
        "build": {"seconds": round(seconds, 1), "cpu_s": round(cpu, 1), "peak_mem_mib": round(peak)},
        "resumed": {"parts_kept": survived, "cpu_s": round(resumed_cpu, 1), "peak_mem_mib": round(resumed_peak)},
        "same_bytes": same,
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    settings = Settings(**arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), settings)
    machine = {"python": platform.python_version(), "numpy": numpy.__version__, "machine": platform.machine()}
    result = {"script": "benchmarks/cme_build.py", "settings": asdict(settings), **machine, **found}
    print(json.dumps(result, indent=2))
    if path is not None:
        write_atomically(path, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
