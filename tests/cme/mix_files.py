"""Small public-looking files to build mixes of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_teamlora.cme.build import build
from llava_teamlora.cme.plan import Options, Plan, make_plan
from llava_teamlora.cme.sources import SOURCES, TASKS
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.cme.task import TextTask


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def nq(path: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    return write_lines(path, ({"question": question, "answer": [answer]} for question, answer in pairs))


def anli(path: Path, rows: Iterable[tuple[str, str, str]]) -> Path:
    return write_lines(
        path,
        ({"uid": f"u{n}", "context": a, "hypothesis": b, "label": label} for n, (a, b, label) in enumerate(rows)),
    )


def alpaca(path: Path, rows: Iterable[tuple[str, str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def plan(root: Path, *names: str, caps: Mapping[str, int] | None = None, **options: Any) -> Plan:
    """Of the sets under ``root/train``, compared with what there is under ``root/eval``."""
    given = {"out": root / "mix.jsonl", "skip_missing": True, "skip_missing_eval": True, **options}
    tasks = [task for task in (get_benchmark(source.name) for source in TASKS) if isinstance(task, TextTask)]
    sources = [SOURCES[name] for name in names]
    return make_plan(Options(data_root=root / "train", eval_root=root / "eval", **given), sources, caps or {}, tasks)


def make(root: Path, *names: str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Manifest and records of a mix."""
    given = plan(root, *names, **options)
    manifest, _ = build(given)
    out = given.options.out
    text = out.read_text(encoding="utf-8")
    for counts in (*manifest["sets"].values(), manifest["total"]):  # every row is somewhere, and once
        gone = ("bad_rows", "duplicates", "duplicates_of_others", "over_cap", "beyond_scale", "leaks_dropped")
        assert counts["rows"] == counts["kept"] + sum(counts[name] for name in gone)
    records = [json.loads(line) for line in text.splitlines()] if out.suffix == ".jsonl" else json.loads(text)
    return manifest, records


def leaks(root: Path, name: str = "mix.leaks.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / name).read_text(encoding="utf-8").splitlines()]
