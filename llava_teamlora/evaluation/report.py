"""``scores.json`` files -> one table: runs above, baselines below. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object

FORMATS = ("table", "md", "json")


@dataclass(frozen=True)
class Row:
    """One line of the table: values as the official tool shows them, in the columns' order; None where none is."""

    label: str
    values: tuple[float | None, ...]
    stderrs: tuple[float | None, ...]


@dataclass(frozen=True)
class Report:
    """A table before it is drawn.

    Attributes:
        title: benchmark, metric and number of questions.
        columns: ``total``, the groups, further measures.
        counts: questions a column.
        runs: one row a file.
        baselines: rows that no model made.
    """

    title: str
    columns: tuple[str, ...]
    counts: tuple[int, ...]
    runs: tuple[Row, ...]
    baselines: tuple[Row, ...]


def build_report(files: Sequence[str]) -> Report:
    """Read files given as ``PATH`` or ``LABEL=PATH``.

    Raises:
        UserError: a file is missing, no scores, or of another benchmark or set of questions than the first.
    """
    labels, found = zip(*(_read(file) for file in files), strict=True)
    first = found[0]
    for file, scores in zip(files, found, strict=True):
        if any(scores[name] != first[name] for name in ("name", "version")):
            raise UserError(
                f"{file}: is of {scores['name']} (version {scores['version']}), but {files[0]} of "
                f"{first['name']} (version {first['version']}); report them apart"
            )
    columns = ("total", *first["groups"], *first["extra"])
    runs = tuple(_row(label, scores, columns) for label, scores in zip(labels, found, strict=True))
    baselines = tuple(_row(label, scores, columns) for label, scores in first["baselines"].items())
    cells = _by_column(first)
    counts = tuple(cells[column]["n"] for column in columns)
    title = f"{first['name']}: {first['metric']} in % ± standard error, {counts[0]} questions"
    return Report(title, columns, counts, runs, baselines)


def _read(file: str) -> tuple[str, dict[str, Any]]:
    label, separator, path = file.partition("=")
    if not separator or Path(file).exists():
        label, path = "", file
    scores = read_json_object(Path(path))
    absent = [
        name for name in ("name", "version", "metric", "total", "groups", "extra", "baselines") if name not in scores
    ]
    if absent:
        raise UserError(f"{path}: holds no scores ({', '.join(absent)} missing); make it with evaluate score")
    malformed = _malformed(scores)
    if malformed:
        raise UserError(f"{path}: holds malformed scores ({', '.join(malformed)}); make it anew with evaluate score")
    return label or model_label(scores) or path, scores


def _malformed(scores: dict[str, Any]) -> list[str]:
    """Names of the parts that are not what ``scoring.score`` writes, beyond being there."""
    found = [name for name in ("name", "metric") if not isinstance(scores[name], str)]
    if not isinstance(scores["version"], int):
        found.append("version")
    found += _malformed_cells(scores, "")
    baselines = scores["baselines"]
    if not isinstance(baselines, dict):
        return [*found, "baselines"]
    for name, baseline in baselines.items():
        found += _malformed_cells(baseline, f"baselines.{name}.")
    return found


def _malformed_cells(part: Any, prefix: str) -> list[str]:
    """The same of ``total``, ``groups`` and ``extra``, of a model or a baseline."""
    if not isinstance(part, dict):
        return [prefix.removesuffix(".")]
    found = [] if _is_cell(part.get("total")) else [f"{prefix}total"]
    for name in ("groups", "extra"):
        cells = part.get(name)
        if not isinstance(cells, dict):
            found.append(prefix + name)
        else:
            found += [f"{prefix}{name}.{key}" for key, cell in cells.items() if not _is_cell(cell)]
    return found


def _is_cell(cell: Any) -> bool:
    """Whether it is a ``types.Score`` as JSON."""
    if not isinstance(cell, dict) or not {"value", "stderr", "n"} <= cell.keys():
        return False
    kinds = {"value": (int, float), "stderr": (int, float, type(None)), "n": (int,)}
    return all(isinstance(cell[name], kind) for name, kind in kinds.items())


def model_label(scores: dict[str, Any]) -> str | None:
    """``runs/x (teamlora)`` or ``playground/tiny (untuned)``; None where no manifest of ours says whose they are."""
    manifest = scores.get("manifest")
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(model, dict) or not {"model", "kind", "method"} <= model.keys():
        return None
    return f"{model['model']} ({'untuned' if model['kind'] == 'base' else model['method']})"


def _by_column(scores: dict[str, Any]) -> dict[str, Any]:
    return {"total": scores["total"], **scores["groups"], **scores["extra"]}


def _row(label: str, scores: dict[str, Any], columns: Sequence[str]) -> Row:
    cells = _by_column(scores)
    found = [cells.get(column, {"value": None, "stderr": None}) for column in columns]
    return Row(label, tuple(_shown(cell, "value") for cell in found), tuple(_shown(cell, "stderr") for cell in found))


def _shown(cell: dict[str, Any], name: str) -> float | None:
    return None if cell[name] is None else cell[name] * cell.get("maximum", 100.0)


def _cells(row: Row) -> list[str]:
    """Percent; the total with its standard error (those of the groups are in ``--format json``)."""
    texts = ["-" if value is None else f"{value:.2f}" for value in row.values]
    if row.stderrs[0] is not None:
        texts[0] += f" ± {row.stderrs[0]:.2f}"
    return texts


def as_table(report: Report) -> Table:
    """For a terminal."""
    table = Table(title=escape(report.title), title_justify="left")
    table.add_column("answers by", overflow="fold")
    for column, count in zip(report.columns, report.counts, strict=True):
        table.add_column(f"{column}\n[dim]n = {count}[/dim]", justify="right", no_wrap=True)
    for row in report.runs:
        table.add_row(row.label, *_cells(row))
    table.add_section()
    for row in report.baselines:
        table.add_row(row.label, *_cells(row), style="dim")
    return table


def as_markdown(report: Report) -> str:
    """For a page."""
    heads = [f"{column} (n = {count})" for column, count in zip(report.columns, report.counts, strict=True)]
    lines = [
        f"{report.title}\n",
        "| " + " | ".join(["answers by", *heads]) + " |",
        "|---" + "|---:" * len(heads) + "|",
    ]
    for row in (*report.runs, *report.baselines):
        lines.append("| " + " | ".join([row.label.replace("|", "\\|"), *_cells(row)]) + " |")
    return "\n".join(lines) + "\n"


def print_report(report: Report, form: str = "table", console: Console | None = None) -> None:
    """Print in one of :data:`FORMATS`."""
    console = console or Console()
    if form == "table":
        console.print(as_table(report))
    elif form == "md":
        print(as_markdown(report), end="")
    else:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
