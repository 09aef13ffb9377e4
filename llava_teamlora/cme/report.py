"""Runs -> CME's tables in the paper's shape, as text, CSV and JSON. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.cme.layouts import LAYOUTS
from llava_teamlora.cme.rows import Entry, make_entries
from llava_teamlora.cme.runs import Found, Run, load_runs
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.report import draw_report
from llava_teamlora.evaluation.tables import Report, as_content
from llava_teamlora.files import write_atomically

ALL = "all"
JSON_FILE = "cme_report.json"


@dataclass(frozen=True)
class Tables:
    """What was asked for.

    Attributes:
        reports: by the table's number in the paper.
        left_out: why a table could not be made, by number.
        entries: the rows they are made of.
        found: what was read.
    """

    reports: dict[str, Report]
    left_out: dict[str, str]
    entries: tuple[Entry, ...]
    found: Found


def build_tables(arguments: Sequence[str], table: str = "2", *, published: bool = True) -> Tables:
    """Read runs and lay them out.

    Args:
        arguments: ``[LABEL=]PATH``; see ``runs.load_runs``.
        table: its number in the paper, or ``all``: every table that these runs have rows for.
        published: whether the paper's rows stand below.

    Raises:
        UserError: the runs cannot stand in one table, or not in the table asked for.
    """
    found = load_runs(arguments)
    entries = make_entries(found.runs)
    reports: dict[str, Report] = {}
    left_out: dict[str, str] = {}
    for number in LAYOUTS if table == ALL else (table,):
        try:
            reports[number] = LAYOUTS[number](entries, found.untuned, published)
        except UserError as error:
            if table != ALL:
                raise
            left_out[number] = str(error)
    if not reports:
        raise UserError("; ".join(f"table {number}: {why}" for number, why in left_out.items()))
    return Tables(reports, left_out, entries, found)


def notes_of(tables: Tables) -> list[str]:
    """What was left out, and why: for the reader of the screen."""
    return [*tables.found.notes, *(f"no table {number}: {why}" for number, why in tables.left_out.items())]


def draw_tables(tables: Tables, form: str) -> str:
    """All tables as text, in one of ``evaluation.tables.FORMATS``."""
    if form == "json":
        return _as_json(tables)
    return "\n".join(draw_report(report, form) for report in tables.reports.values())


def write_tables(tables: Tables, out: Path, forms: Sequence[str]) -> list[Path]:
    """Write ``table2.md``, … and ``cme_report.json`` into a folder.

    Returns:
        The files written.
    """
    content = {
        out / f"table{number}.{'txt' if form == 'table' else form}": draw_report(report, form)
        for form in forms
        if form != "json"
        for number, report in tables.reports.items()
    }
    if "json" in forms:
        content[out / JSON_FILE] = _as_json(tables)
    for path, text in content.items():
        write_atomically(path, text)
    return list(content)


def _as_json(tables: Tables) -> str:
    """All there is to know: tables, and of every row its runs with their settings and figures."""
    content = {
        "tables": {number: as_content(report) for number, report in tables.reports.items()},
        "left_out": notes_of(tables),
        "rows": [
            {
                "label": entry.label,
                "method": entry.method,
                "rank": entry.rank,
                "experts": entry.experts,
                "percent_of_base": entry.percent(),
                "settings": entry.first.settings(),
                "runs": [_of_run(run) for run in entry.runs],
            }
            for entry in tables.entries
        ],
        "untuned": [_of_run(run) for run in tables.found.untuned],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"


def _of_run(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.path),
        "base": run.base,
        "seed": run.seed,
        "results": dict(run.results),
        "versions": run.card.versions if run.card else None,
        "scores": {
            name: {**file.content["total"], "metric": file.content["metric"], "remarks": file.remarks}
            for name, file in run.files.items()
        },
    }
