"""``scores.json`` and its rows -> a folder with ``index.html``: every sample with its picture, answer and verdict.

The folder opens from the disk: no server, no network, no framework. The page's own files are copies of those in
``page/``; ``data.js`` holds the samples, ``pictures/`` small JPEG files. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.checking import load_samples
from llava_teamlora.evaluation.reading import read_json_lines, take
from llava_teamlora.evaluation.score_files import ScoreFile, read_scores, refuse_other_edition, told_apart
from llava_teamlora.evaluation.scoring import rows_path
from llava_teamlora.evaluation.types import Picture
from llava_teamlora.evaluation.viewer.pictures import Shown, find_pictures, needs_reloading, write_pictures
from llava_teamlora.files import write_atomically

_PAGE = ("index.html", "style.css", "filters.js", "app.js")
_DATA = "data.js"
_HEAD = "// Samples of a benchmark, for app.js beside it.\n"
_KNOWN = frozenset(
    {"key", "question_id", "group", "cluster", "image", "prompt", "text", "parsed", "targets", "choices", "score"}
)


@dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        index: the page to open.
        samples: on the page.
        pictures: small files.
        missing: pictures that are not there or damaged.
    """

    index: Path
    samples: int
    pictures: int
    missing: int


def build_site(scores: Sequence[str], out: Path, *, data_root: Path | None = None, limit: int | None = None) -> Site:
    """Write the page.

    Args:
        scores: one ``[LABEL=]scores.json`` (or its folder), or two to see side by side.
        out: folder; one that holds such a page already is written anew.
        data_root: the benchmark's files, where they are not where the answers were scored.
        limit: only the first so many samples; the page says so. None for all.

    Raises:
        UserError: no scores or rows, not of one benchmark and edition, or something else lies in `out`.
    """
    found = told_apart(read_scores(scores))
    _check(found, out, limit)
    rows = [_read_rows(file) for file in found]
    merged = _merge(rows, found)
    kept = merged[:limit]
    shown = _pictures(kept, found[0], out, data_root)
    notes = _notes(found, rows, len(merged), len(kept), [picture.missing for picture in shown.values()])
    data = {
        "benchmark": found[0].benchmark,
        "metric": found[0].content["metric"],
        "runs": [_run(file, len(read)) for file, read in zip(found, rows, strict=True)],
        "groups": list(found[0].content["groups"]),
        "notes": notes,
        "samples": [_sample(group, shown) for group in kept],
    }
    _write(out, data)
    there = sum(picture.file is not None for picture in shown.values())
    return Site(out / _PAGE[0], len(kept), there, len(shown) - there)


def _check(found: Sequence[ScoreFile], out: Path, limit: int | None) -> None:
    if len(found) > 2:
        names = ", ".join(str(file.path) for file in found)
        raise UserError(f"evaluate view shows one scores.json or two side by side, these are {len(found)}: {names}")
    first, last = found[0], found[-1]
    if (first.benchmark, first.content["version"]) != (last.benchmark, last.content["version"]):
        raise UserError(f"{last.path}: is of {last}, but {first.path} of {first}; view them apart")
    refuse_other_edition(last, first)
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} must be at least 1")
    data = out / _DATA
    ours = data.is_file() and data.read_bytes().startswith(_HEAD.encode())
    if not ours and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise UserError(f"{out}: holds something else already; choose another --out, nothing is overwritten")


def _read_rows(file: ScoreFile) -> dict[str, dict[str, Any]]:
    """The row log beside the scores, by key.

    Raises:
        UserError: there is none, as of a server's figure, or a row is no row of ours.
    """
    path = rows_path(file.path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; the rows are written beside {file.path.name} by evaluate score")
    rows = {}
    for where, row in read_json_lines(path):
        for name in ("key", "group", "prompt", "text", "parsed"):
            take(row, name, str, where)
        take(row, "score", (int, float), where)
        take(row, "targets", list, where)
        take(row, "image", (str, type(None)), where)
        if row["key"] in rows:
            raise UserError(f"{where}: the key {row['key']!r} stands there twice; score the answers anew")
        rows[row["key"]] = row
    if not rows:
        raise UserError(f"{path}: holds no rows; score the answers anew")
    return rows


def _merge(
    rows: Sequence[Mapping[str, dict[str, Any]]], found: Sequence[ScoreFile]
) -> list[list[dict[str, Any] | None]]:
    """Rows of one question together: the first run's order, then what only the second has.

    Raises:
        UserError: a question is not the same in both.
    """
    keys = dict.fromkeys(key for run in rows for key in run)
    merged = [[run.get(key) for run in rows] for key in keys]
    other = [group for group in merged if all(group) and len({row["prompt"] for row in group if row}) > 1]
    if other:
        key = next(row["key"] for row in other[0] if row)
        raise UserError(
            f"{rows_path(found[-1].path)}: {len(other)} of {len(merged)} questions read otherwise than in "
            f"{rows_path(found[0].path)}, the first is {key!r}; score both on one edition of the data"
        )
    return merged


def _pictures(
    merged: Sequence[Sequence[dict[str, Any] | None]], file: ScoreFile, out: Path, data_root: Path | None
) -> dict[str, Shown]:
    """By the rows' ``image`` text."""
    images = [(row["key"], row["image"]) for group in merged for row in group[:] if row and row["image"]]
    reloaded: dict[str, Picture] = {}
    if data_root is not None or needs_reloading(image for _, image in images):
        reloaded = _reload(file, data_root)
    found = find_pictures(images, reloaded)
    there = {image: picture for image, picture in found.items() if picture is not None}
    shown = dict(zip(there, write_pictures(list(there.values()), out), strict=True))
    lost = f"a picture inside {file.benchmark}'s data file; give its folder with --data_root"
    return {image: shown.get(image) or Shown(None, lost) for image in found}


def _reload(file: ScoreFile, data_root: Path | None) -> dict[str, Picture]:
    """Pictures by key, of the benchmark's own files.

    Raises:
        UserError: `data_root` was named and does not hold them; elsewhere that is only worth a note on the page.
    """
    benchmark = BENCHMARKS.get(file.benchmark)
    recorded = file.content.get("data_root")
    if benchmark is None:
        return {}
    try:
        samples = load_samples(benchmark, data_root or (Path(recorded) if isinstance(recorded, str) else None))
    except UserError:
        if data_root is not None:
            raise
        return {}
    return {sample.key: sample.image for sample in samples if sample.image is not None}


def _notes(
    found: Sequence[ScoreFile],
    rows: Sequence[Mapping[str, Any]],
    samples: int,
    kept: int,
    missing: Sequence[str | None],
) -> list[str]:
    """What a reader must know before trusting the page."""
    notes = [f"{file.label}: {remark}" for file in found for remark in file.remarks]
    if kept < samples:
        notes.append(f"only the first {kept} of {samples} samples are here (--limit)")
    if len(found) > 1:
        notes += [
            f"{file.label} has no answer to {samples - len(run)} of {samples} questions"
            for file, run in zip(found, rows, strict=True)
            if len(run) < samples
        ]
    reasons = [reason for reason in missing if reason]
    if reasons:
        notes.append(f"{len(reasons)} of {len(missing)} pictures cannot be shown; the first: {reasons[0]}")
    return notes


def _run(file: ScoreFile, rows: int) -> dict[str, Any]:
    """A benchmark's figure may count some of the rows only, as MME's perception, or what several rows make."""
    total = file.content["total"]
    maximum = total.get("maximum", 100.0)
    error = total["stderr"]
    return {
        "label": file.label,
        "file": str(file.path),
        "value": total["value"] * maximum,
        "stderr": None if error is None else error * maximum,
        "maximum": maximum,
        "n": total["n"],
        "rows": rows,
    }


def _sample(group: Sequence[dict[str, Any] | None], shown: Mapping[str, Shown]) -> dict[str, Any]:
    """One question with its answers, as ``app.js`` takes it."""
    row = next(row for row in group if row)
    picture = shown[row["image"]] if row["image"] else Shown(None)
    return {
        "key": row["key"],
        "id": row.get("question_id"),
        "group": row["group"],
        "picture": picture.file,
        "missing": picture.missing,
        "prompt": row["prompt"],
        "targets": row["targets"],
        "choices": row.get("choices") or [],
        "metadata": row.get("metadata") or {},
        "answers": [_answer(row) for row in group],
    }


def _answer(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Further measures stood beside the score in the first format of rows."""
    if row is None:
        return None
    extra = row.get("extra", {name: value for name, value in row.items() if name not in _KNOWN and name != "metadata"})
    found = {"text": row["text"], "parsed": row["parsed"], "score": row["score"], "extra": extra}
    return found if row.get("asked") is None else {**found, "asked": row["asked"]}


def _write(out: Path, data: Mapping[str, Any]) -> None:
    """``index.html`` last: a page that can be opened is whole."""
    # ASCII alone, so that lone surrogates and line separators survive; a string in a string, so that no key of
    # somebody's metadata means anything to JavaScript.
    text = json.dumps(json.dumps(data, separators=(",", ":"))).replace("<", "\\u003c")
    write_atomically(out / _DATA, f"{_HEAD}window.benchmarkData = JSON.parse({text});\n")
    page = files("llava_teamlora.evaluation.viewer") / "page"
    for name in reversed(_PAGE):
        write_atomically(out / name, (page / name).read_bytes())
