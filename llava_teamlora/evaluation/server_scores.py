"""A figure that a test server gave -> ``scores.json``, so that it stands in tables beside what is scored here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import write_json
from llava_teamlora.evaluation.companions import read_manifest
from llava_teamlora.evaluation.reading import decode, parse_json_lines, read_bytes
from llava_teamlora.evaluation.score_files import refuse_name_of_lines
from llava_teamlora.evaluation.types import Benchmark

_FORMAT = 1


def record_score(benchmark: Benchmark, percent: float, source: str, out: Path, answers: Path | None) -> dict[str, Any]:
    """Write it down.

    Args:
        benchmark: one that only a server can score.
        percent: as the server shows it.
        source: where and when it was obtained, in words.
        out: where ``scores.json`` goes.
        answers: what was sent in; its digest, number of rows and manifest are noted. None if it is not there any more.

    Returns:
        What was written to ``out``.

    Raises:
        UserError: the benchmark is scored here, or the figure is no percentage, or ``out`` is named ``.jsonl``.
    """
    if not benchmark.server:
        raise UserError(f"{benchmark.name}: is scored here, not by a server; use evaluate score")
    if not 0 <= percent <= 100:
        raise UserError(f"{benchmark.name}: {percent:g} is no percentage (0 to 100)")
    if 0 < percent < 1:
        raise UserError(f"{benchmark.name}: {percent:g} looks like a share of 1; give percent: {100 * percent:g}")
    if not source.strip():
        raise UserError("--source: is empty; say where and when the score was obtained")
    refuse_name_of_lines(out)
    sent_in = _sent_in(answers)
    content = {
        "format": _FORMAT,
        "benchmark": benchmark.name,
        "name": benchmark.name,
        "version": benchmark.version,
        "metric": benchmark.metric,
        "server_score": source,
        **sent_in,
        "total": {"value": percent / 100, "stderr": None, "n": sent_in["answered"], "maximum": 100.0},
        "groups": {},
        "extra": {},
        "baselines": {},
    }
    write_json(out, content)
    return content


def _sent_in(answers: Path | None) -> dict[str, Any]:
    if answers is None:
        return {"answers": None, "answers_sha256": None, "answered": None, "questions": None, "manifest": None}
    whole = read_bytes(answers)
    rows = len(parse_json_lines(decode(whole, answers), answers))
    return {
        "answers": str(answers),
        "answers_sha256": hashlib.sha256(whole).hexdigest(),
        "answered": rows,
        "questions": rows,
        "manifest": read_manifest(answers),
    }
