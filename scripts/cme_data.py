#!/usr/bin/env python
"""The embedded CME: small training and test splits of the eleven tasks, about an invented world, as public files.

Writes into --out:

  train/<task>/...   training splits, for `llava-teamlora cme build --data_root OUT/train`
  eval/<task>/...    test splits, for `llava-teamlora evaluate run cme --data_root OUT/eval`
  world.json         from what they were made; nothing is done if it says what is asked for

The layouts are those of the original distributions. The same seed and counts give the same bytes. The world's facts
are the same under every seed, for the embedded base (playground/tiny_text) has learned them; its pretraining text kept
out the test rows of the default seed and count only.

examples:
  python scripts/cme_data.py
  python scripts/cme_data.py --out playground/data/other-cme --seed 7 --train 1000 --test 200
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cme_world.build import Plan, build, is_built

from llava_teamlora.errors import UserError


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; --help teaches."""
    parser = argparse.ArgumentParser(
        prog="cme_data.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plan = Plan()
    parser.add_argument(
        "--out", type=Path, default=Path("playground/data/embedded-cme"), help="the folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=plan.seed, help="decides all rows (default: %(default)s)")
    parser.add_argument("--train", type=_count, default=plan.train, help="training rows a task (default: %(default)s)")
    parser.add_argument("--test", type=_count, default=plan.test, help="test rows a task (default: %(default)s)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 12:
        raise argparse.ArgumentTypeError(f"must be a number of rows, at least 12, found {text!r}")
    return int(text)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep the folder to one process; another waits, and then finds all made.

    Raises:
        UserError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Entry point."""
    options = parse_arguments(sys.argv[1:])
    plan = Plan(options.seed, options.train, options.test)
    try:
        if made := not is_built(options.out, plan):
            with alone(options.out):
                made = build(options.out, plan)
    except UserError as error:
        sys.exit(f"cme_data.py: {error}")
    counts = f"eleven tasks, {plan.train} training and {plan.test} test rows each, seed {plan.seed}"
    print(f"{options.out}: {counts}{'' if made else '; already there'}")


if __name__ == "__main__":
    main()
