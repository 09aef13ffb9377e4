"""LLaVA's question files from the official ones, for who has only these. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_lines, read_json_list
from llava_teamlora.evaluation.types import Benchmark
from llava_teamlora.files import write_atomically


@dataclass(frozen=True)
class Built:
    """A question file: where, of how many rows, and whether it was ``written`` or is the ``same as there``."""

    path: Path
    rows: int
    state: str


def build(benchmark: Benchmark, data_root: Path | None = None, *, overwrite: bool = False) -> list[Built]:
    """Make a benchmark's question files where they are not there yet.

    Args:
        benchmark: whose.
        data_root: see ``Benchmark.load``.
        overwrite: replace files of other content instead of refusing.

    Raises:
        UserError: an official file is missing, there is nothing to build, or a file of other content is there. Nothing
            is written then.
    """
    needs = benchmark.needs(data_root)
    inputs = dict.fromkeys(i for need in needs for i in need.made_from if not i.path.exists())
    if inputs:
        missing = "; ".join(f"{need.path} ({need.what}), from {need.source}" for need in inputs)
        raise UserError(f"{benchmark.name}: to build from is missing: {missing}")
    files = benchmark.build(data_root)
    if not files:
        raise UserError(f"{benchmark.name}: nothing to build, its files are read as they are published")
    same = {path: path.exists() and not overwrite and _is_same(path, rows) for path, rows in files.items()}
    for path, rows in files.items():
        if not same[path]:
            write_atomically(path, _text(path, rows))
    return [Built(path, len(rows), "same as there" if same[path] else "written") for path, rows in files.items()]


def _text(path: Path, rows: list[dict[str, Any]]) -> str:
    """JSON lines or, of ``.json``, one list; escaped and spaced as LLaVA's files are."""
    if path.suffix == ".json":
        return json.dumps(rows, indent=2)
    return "".join(json.dumps(row) + "\n" for row in rows)


def _is_same(path: Path, rows: list[dict[str, Any]]) -> bool:
    """True if the file holds these very rows.

    Raises:
        UserError: it holds others, or cannot be read.
    """
    there = read_json_list(path) if path.suffix == ".json" else read_json_lines(path)
    # As text: the order of the fields counts, and 1 is not 1.0.
    differing = [
        (where, old, new) for (where, old), new in zip(there, rows, strict=False) if json.dumps(old) != json.dumps(new)
    ]
    if not differing and len(there) == len(rows):
        return True
    problem = f"holds {len(there)} rows, {len(rows)} would be built"
    if differing:
        where, old, new = differing[0]
        first = next((name for name in new if old.get(name) != new[name] or name not in old), "its fields' order")
        problem += (
            f"; {len(differing)} of them differ, first {where.removeprefix(f'{path}, ')}: {first} is "
            f"{old.get(first)!r:.120}, not {new.get(first)!r:.120}"
        )
    raise UserError(f"{path}: {problem}. Keep it if it is LLaVA's own; --overwrite replaces it")
