"""Scores of several benchmarks -> methods x benchmarks, as the paper's Table 6 (and 2). Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.paper import ELEVEN, HEADS, NINE, PUBLISHED, average, maximum_of
from llava_teamlora.evaluation.score_files import ScoreFile, refuse_other_edition
from llava_teamlora.evaluation.tables import Cell, Column, Report, Row, as_unit, ranked

AVERAGE = "average"
CME_AVERAGE = "cme_average"
_SETS = {AVERAGE: NINE, CME_AVERAGE: ELEVEN}
"""What is averaged over, by the average's column."""
_TITLE = "Benchmarks ± standard error"
_NINE_TITLE = "up to Avg. as in the TeamLoRA paper's Table 6, Avg. = (MME / 20 + the other eight) / 9"
_ELEVEN_TITLE = "as in the TeamLoRA paper's Table 2, the mean of CME's eleven tasks"


def build_overview(found: Sequence[ScoreFile], published: bool = True) -> Report:
    """One row a label, one column a benchmark; an average only over a full set of the nine, or of CME's eleven.

    Args:
        found: scores of several benchmarks.
        published: whether rows of the paper and of LLaVA stand below; those of Table 2 stand in ``cme report``.

    Raises:
        UserError: two files are of one benchmark and label, or of different versions or editions of a benchmark.
    """
    refuse_mixtures(found)
    there = {file.benchmark for file in found}
    sets = {name: members for name, members in _SETS.items() if there & set(members)}
    members = {name for each in sets.values() for name in each}
    further = [name for name in HEADS if name in there and name not in members]
    names = (*(name for average, each in sets.items() for name in (*each, average)), *further)
    names = (*names, *sorted(there - set(HEADS)))
    columns = tuple(_column(name, found, len(sets)) for name in names)
    labels = list(dict.fromkeys(file.label for file in found))
    notes: list[str] = []
    rows = [_row(label, [file for file in found if file.label == label], found, names, notes) for label in labels]
    theirs = _published(columns) if published else ()
    notes += [f"published: {source}" for source in dict.fromkeys(row.source for row in theirs)]
    return Report(_title(sets), columns, ranked(rows, columns), (), theirs, tuple(notes))


def _title(sets: Collection[str]) -> str:
    if CME_AVERAGE not in sets:
        return f"Multimodal benchmarks ± standard error; {_NINE_TITLE}" if sets else _TITLE
    if AVERAGE not in sets:
        return f"{_TITLE}; Avg. {_ELEVEN_TITLE}"
    return f"{_TITLE}; {_NINE_TITLE}; CME {_ELEVEN_TITLE}"


def refuse_mixtures(found: Sequence[ScoreFile]) -> None:
    """Raise UserError as :func:`build_overview` does."""
    first: dict[str, ScoreFile] = {}
    taken: dict[tuple[str, str], ScoreFile] = {}
    for file in found:
        earlier = first.setdefault(file.benchmark, file)
        if file.content["version"] != earlier.content["version"]:
            raise UserError(
                f"{file.path}: is of {file}, but {earlier.path} of version {earlier.content['version']}; "
                "score one of them anew, or report them apart"
            )
        refuse_other_edition(file, earlier)
        twin = taken.setdefault((file.label, file.benchmark), file)
        if twin is not file:
            raise UserError(
                f"{file.path}: is of {file.benchmark} and goes by {file.label!r}, as {twin.path} does; "
                "name one of them otherwise: LABEL=FILE"
            )


def _column(name: str, found: Sequence[ScoreFile], averages: int) -> Column:
    if name in _SETS:
        return Column(name, "Avg." if averages == 1 or name == AVERAGE else "CME")
    return Column(name, HEADS.get(name, name), _usual_maximum(name, found), decimals=1)


def _usual_maximum(name: str, found: Sequence[ScoreFile]) -> float:
    """What a perfect score of all questions is: as published, else the greatest of the files'.

    A part of MME has fewer subtasks, and so a lower one.
    """
    return maximum_of(name) if name in HEADS else max(_maximum(file) for file in found if file.benchmark == name)


def _maximum(file: ScoreFile) -> float:
    return file.content["total"].get("maximum", 100.0)


def _row(
    label: str, mine: Sequence[ScoreFile], found: Sequence[ScoreFile], names: Sequence[str], notes: list[str]
) -> Row:
    files = {file.benchmark: file for file in mine}
    cells = {name: _cell(file, [other for other in found if other.benchmark == name]) for name, file in files.items()}
    for average_name, members in _SETS.items():
        if average_name in names:
            missing, partial = lacks(files, members)
            if not missing and not partial:
                cells[average_name] = average_cell(files, cells, members)
            elif len(missing) < len(members) or len(set(_SETS) & set(names)) == 1:
                parts = [f"{', '.join(missing)} missing"] if missing else []
                parts += [f"{', '.join(partial)} partial"] if partial else []
                notes.append(f"no average for {label}: {'; '.join(parts)}")
    return Row(label, tuple(cells.get(name) for name in names))


def lacks(files: Mapping[str, ScoreFile], members: Sequence[str]) -> tuple[list[str], list[str]]:
    """Heads of the benchmarks of a set that are missing, and of those that are partial."""
    missing = [HEADS[name] for name in members if name not in files]
    partial = [HEADS[name] for name in members if name in files and is_partial(files[name])]
    return missing, partial


def is_partial(file: ScoreFile) -> bool:
    """Whether only some of the questions were answered."""
    return any(remark.startswith("partial") for remark in file.remarks)


def _cell(file: ScoreFile, column: Sequence[ScoreFile]) -> Cell:
    """Its total. What makes it another measurement than the column's others is a footnote, and keeps it unranked."""
    notes = list(file.remarks)
    one_metric = len({other.content["metric"] for other in column}) == 1
    if not one_metric or file.judged:
        notes.append(file.content["metric"])
    usual = _maximum(file) == _usual_maximum(file.benchmark, column)
    if not usual:
        notes.append(f"of {_maximum(file):g}")
    comparable = one_metric and usual and not file.remarks
    if file.server is not None:
        notes.append(f"from the test server: {file.server}")
    if file.untied is not None:
        notes.append(file.untied)
    return as_unit(file.content["total"], tuple(notes), comparable)


def average_cell(files: Mapping[str, ScoreFile], cells: Mapping[str, Cell], members: Sequence[str]) -> Cell:
    """With the footnotes of what it is made of.

    Its standard error takes the n benchmarks for independent: sqrt(sum of the shares' variances) * 100 / n.

    MMBench and MMBench-CN ask the same in two languages, so that the true one is a little larger.

    Args:
        files: by benchmark.
        cells: the same as they are shown.
        members: what is averaged over; all are there.
    """
    totals = {name: files[name].content["total"] for name in members}
    errors = {name: total["stderr"] for name, total in totals.items() if total["stderr"] is not None}
    unknown = [HEADS[name] for name in members if name not in errors]
    error = 100 * math.sqrt(sum(e * e for e in errors.values())) / len(members) if errors else None
    notes = dict.fromkeys(note for name in members for note in cells[name].notes)
    if unknown and errors:
        notes[f"± without that of {', '.join(unknown)}, which is not known"] = None
    value = average({name: total["value"] for name, total in totals.items()}, members)
    return Cell(value, error, tuple(notes), all(cells[name].comparable for name in members))


def _published(columns: Sequence[Column]) -> tuple[Row, ...]:
    """Rows of others that have a figure in one of the columns; each source's best and second are its own."""
    rows = []
    for entry in PUBLISHED:
        values = dict(entry.values)
        shares = {name: value / maximum_of(name) for name, value in values.items()}
        cells = {name: Cell(value) for name, value in values.items()}
        if set(NINE) <= shares.keys():
            cells[AVERAGE] = Cell(average(shares))
        found = tuple(cells.get(column.name) for column in columns)
        if any(found):
            rows.append(Row(entry.label, found, entry.source))
    ordered = groupby(rows, key=lambda row: row.source)
    return tuple(row for _, block in ordered for row in ranked(list(block), columns))
