"""``llava-teamlora sweep`` as a program of its own, with fake_program.py in the place of training and evaluation."""

from __future__ import annotations

import sys
from pathlib import Path

from llava_teamlora.cli import main
from llava_teamlora.sweep import flags, jobs

FAKE = str(Path(__file__).parent / "fake_program.py")

if __name__ == "__main__":
    jobs.PROGRAM = (sys.executable, FAKE)
    flags.CHECK = (sys.executable, FAKE, "check")
    raise SystemExit(main(["sweep", *sys.argv[1:]]))
