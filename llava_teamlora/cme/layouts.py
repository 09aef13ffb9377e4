"""Rows -> one of the paper's Tables 2 to 5, its own rows in a block below. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from llava_teamlora.cme import paper
from llava_teamlora.cme.rows import Entry, differences, method_name, task_cell, told_differences
from llava_teamlora.cme.runs import Run
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.overview import AVERAGE, average_cell, is_partial
from llava_teamlora.evaluation.paper import ELEVEN, HEADS
from llava_teamlora.evaluation.score_files import ScoreFile
from llava_teamlora.evaluation.tables import Cell, Column, Report, Row, ranked

_ROUTED = ("moelora", "hydralora", "teamlora")
_SPREAD = "± is half of a 95 % interval: over the seeds (Student's t) where a row has several, else over the questions"
_SAME_SIZE = 1.05
"""A row of Table 3 is of the block of the next smaller one if it has at most so many times its parameters."""
_ABLATION_NAMES = {
    (False, False): "MoELoRA",
    (True, False): "MoELoRA + competition",
    (False, True): "TeamLoRA - competition",
    (True, True): "TeamLoRA",
}


def table_2(entries: Sequence[Entry], untuned: Sequence[Run], published: bool) -> Report:
    """Methods x eleven tasks and their average.

    Args:
        entries: rows.
        untuned: untuned bases.
        published: whether the paper's rows stand below.

    Raises:
        UserError: the rows are of several bases, or there are none.
    """
    base = _one_base(entries, untuned)
    columns, seeds = _columns((*ELEVEN, AVERAGE)), _seeds(entries)
    rows = [_row(e, columns, seeds, _moe(e), e.rank_text(), _time(e), _size(e)) for e in entries]
    theirs = [_published_row(row, columns, _paper_facts(row), 2) for row in paper.TABLE_2] if published else []
    return Report(
        f"CME in the shape of the paper's Table 2, on {base}, in %; {_SPREAD}",
        columns,
        ranked(rows, columns),
        _baselines(entries, untuned, columns),
        ranked(theirs, columns),
        _notes(entries, columns, published, 2),
        head="method",
        facts=("MoE", "Rank", "Time", "Params %", *seeds),
        intervals=True,
    )


def table_3(entries: Sequence[Entry], untuned: Sequence[Run], published: bool) -> Report:
    """Ranks: blocks of about equal size, each with a best and a second of its own; see :func:`table_2`."""
    base = _one_base(entries, untuned)
    entries = sorted((entry for entry in entries if entry.rank is not None), key=Entry.trained)
    if not entries:
        raise UserError("none of these runs has a rank to be swept")
    columns = _columns(paper.SWEEP)
    blocks: list[list[Entry]] = []
    for entry in entries:
        if not blocks or entry.trained() > _SAME_SIZE * blocks[-1][-1].trained():
            blocks.append([])
        blocks[-1].append(entry)
    seeds = _seeds(entries)
    rows = [[_row(e, columns, seeds, _moe(e), e.rank_text(), _size(e)) for e in block] for block in blocks]
    theirs = [[_published_row(row, columns, _paper_facts(row), 3) for row in block] for block in paper.TABLE_3]
    return Report(
        f"Ranks in the shape of the paper's Table 3, on {base}, in %; blocks by size; {_SPREAD}",
        columns,
        tuple(row for block in rows for row in ranked(block, columns)),
        _baselines(entries, untuned, columns),
        tuple(row for block in theirs for row in ranked(block, columns)) if published else (),
        _notes(entries, columns, published, 3),
        head="method",
        facts=("MoE", "Rank", "Params %", *seeds),
        intervals=True,
    )


def table_4(entries: Sequence[Entry], untuned: Sequence[Run], published: bool) -> Report:
    """Ablation: averages by rank with competition and collaboration on and off; see :func:`table_2`."""
    base = _one_base(entries, untuned)
    places = _ablations(entries)
    ranks = sorted({rank for _, rank in places} | (set(paper.TABLE_4[True, True]) if published else set()))
    columns = tuple(Column(f"average_r{rank}", f"Avg. r={rank}") for rank in ranks)
    averages = {place: entry.cells().get(AVERAGE) for place, entry in places.items()}
    rows = [
        Row(_ABLATION_NAMES[modules], tuple(averages.get((modules, rank)) for rank in ranks), facts=_switches(modules))
        for modules in paper.ABLATIONS
        if any(there == modules for there, _ in places)
    ]
    theirs = [_published_ablation(modules, ranks) for modules in paper.ABLATIONS] if published else []
    alike = "collaboration is another way to compute the same function, not another function (docs/methods.md)"
    return Report(
        f"Averages in the shape of the paper's Table 4, on {base}, in %; {_SPREAD}",
        columns,
        ranked(rows, columns),
        (),
        ranked(theirs, columns),
        (*_notes(list(places.values()), _columns((AVERAGE,)), published, 4), alike),
        head="method",
        facts=("Cop", "Col"),
        intervals=True,
    )


def table_5(entries: Sequence[Entry], untuned: Sequence[Run], published: bool) -> Report:
    """Bases: a block each, with a best and a second of its own; see :func:`table_2`."""
    _some(entries)
    columns = _columns((*ELEVEN, AVERAGE))
    rows: list[Row] = []
    seeds = _seeds(entries)
    for base in dict.fromkeys(entry.first.base for entry in entries):
        mine = [entry for entry in entries if entry.first.base == base]
        rows += ranked([_row(entry, columns, seeds, base, entry.rank_text()) for entry in mine], columns)
    theirs = [_published_row(row, columns, (row.base, str(row.rank)), 5) for row in paper.TABLE_5] if published else []
    return Report(
        f"Bases in the shape of the paper's Table 5, in %; {_SPREAD}",
        columns,
        tuple(rows),
        _baselines(entries, untuned, columns),
        ranked(theirs, columns),
        _notes(entries, columns, published, 5),
        head="method",
        facts=("Base", "Rank", *seeds),
        intervals=True,
    )


LAYOUTS: dict[str, Callable[[Sequence[Entry], Sequence[Run], bool], Report]] = {
    "2": table_2,
    "3": table_3,
    "4": table_4,
    "5": table_5,
}
"""By the table's number in the paper."""


def _some(entries: Sequence[Entry]) -> None:
    if not entries:
        raise UserError("no tuned run was given; there is nothing to lay out but an untuned base")


def _one_base(entries: Sequence[Entry], untuned: Sequence[Run]) -> str:
    """The name of the base that all rows are of."""
    _some(entries)
    runs = (*(entry.first for entry in entries), *untuned)
    bases = {run.base_fingerprint: f"{run.base} ({run.path})" for run in runs}
    if len(bases) > 1:
        raise UserError(f"the rows are of {len(bases)} bases: {', '.join(bases.values())}; --table 5 sets bases apart")
    return entries[0].first.base


def _columns(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(
        Column(AVERAGE, "Avg.") if name == AVERAGE else Column(name, HEADS[name], decimals=1) for name in names
    )


def _cells(cells: dict[str, Cell], columns: Sequence[Column]) -> tuple[Cell | None, ...]:
    return tuple(cells.get(column.name) for column in columns)


def _row(entry: Entry, columns: Sequence[Column], seeds: Sequence[str], *facts: str) -> Row:
    """With the number of its seeds, where that has a head."""
    return Row(entry.label, _cells(entry.cells(), columns), facts=(*facts, *(str(len(entry.runs)) for _ in seeds)))


def _seeds(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Head of the number of seeds, where one has more than one."""
    return ("Seeds",) if any(len(entry.runs) > 1 for entry in entries) else ()


def _moe(entry: Entry) -> str:
    return f"✓ k={entry.experts}" if entry.method in _ROUTED else "✗"


def _time(entry: Entry) -> str:
    seconds = entry.seconds()
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _size(entry: Entry) -> str:
    percent = entry.percent()
    return "-" if percent is None else f"{percent:.2f}"


def _paper_facts(row: paper.Published) -> tuple[str, ...]:
    """MoE and rank; of Table 2 time and size too."""
    moe, rank = "✓" if row.method in _ROUTED else "✗", "-" if row.rank is None else str(row.rank)
    return (moe, rank) if row.percent is None else (moe, rank, f"{row.hours} h", f"{row.percent:.2f}")


def _published_row(row: paper.Published, columns: Sequence[Column], facts: tuple[str, ...], number: int) -> Row:
    cells = {name: Cell(value) for name, value in row.scores.items()}
    if row.average is not None:
        cells[AVERAGE] = Cell(row.average)
    label = f"{method_name(row.method)} (paper)"
    return Row(label, _cells(cells, columns), f"{paper.SOURCE}, Table {number}", facts)


def _ablations(entries: Sequence[Entry]) -> dict[tuple[tuple[bool, bool], int], Entry]:
    """The rows by their place in Table 4: what is on, and the rank."""
    places: dict[tuple[tuple[bool, bool], int], Entry] = {}
    for entry in entries:
        if entry.method not in ("moelora", "teamlora") or entry.rank is None:
            continue
        place = (bool(entry.first.adapter["train_interaction"]), entry.method == "teamlora"), entry.rank
        if place in places:
            told = ", ".join(differences([places[place], entry]))
            raise UserError(
                f"{places[place].first.path} and {entry.first.path} have one place in Table 4; they differ in {told}: "
                "give the runs of one setting (each with any number of seeds)"
            )
        places[place] = entry
    if not places:
        raise UserError("none of these runs is a MoELoRA or a TeamLoRA, whose modules Table 4 switches off")
    return places


def _switches(modules: tuple[bool, bool]) -> tuple[str, str]:
    competition, collaboration = ("✓" if on else "-" for on in modules)
    return competition, collaboration


def _published_ablation(modules: tuple[bool, bool], ranks: Sequence[int]) -> Row:
    printed = paper.TABLE_4[modules]
    cells = tuple(Cell(printed[rank]) if rank in printed else None for rank in ranks)
    return Row(f"{_ABLATION_NAMES[modules]} (paper)", cells, f"{paper.SOURCE}, Table 4", _switches(modules))


def _baselines(entries: Sequence[Entry], untuned: Sequence[Run], columns: Sequence[Column]) -> tuple[Row, ...]:
    """The untuned bases, then what no model made: of each task by its fullest scores."""
    fullest: dict[str, ScoreFile] = {}
    for run in (*(run for entry in entries for run in entry.runs), *untuned):
        for name, file in run.files.items():
            if name not in fullest or (is_partial(fullest[name]) and not is_partial(file)):
                fullest[name] = file
    bases = [Entry(run.label or f"untuned {run.base if len(untuned) > 1 else 'base'}", (run,)) for run in untuned]
    rows = [Row(entry.label, _cells(entry.cells(), columns)) for entry in bases]
    for baseline in dict.fromkeys(name for file in fullest.values() for name in file.content["baselines"]):
        parts = {
            name: replace(file, content={**file.content, **file.content["baselines"][baseline]})
            for name, file in fullest.items()
            if baseline in file.content["baselines"]
        }
        cells = {name: task_cell(part) for name, part in parts.items()}
        if all(name in parts and not is_partial(parts[name]) for name in ELEVEN):
            cells[AVERAGE] = average_cell(parts, cells, ELEVEN)
        rows.append(Row(baseline, _cells(cells, columns)))
    return tuple(row for row in rows if any(row.cells))


def _notes(entries: Sequence[Entry], columns: Sequence[Column], published: bool, number: int) -> tuple[str, ...]:
    """What is missing, what rows differ in, and what the paper's rows are."""
    notes = []
    if any(column.name == AVERAGE for column in columns):
        notes += [_why_no_average(run) for entry in entries for run in entry.runs if run.missing]
    notes += [f"rows differ: {told}" for told in told_differences(entries)]
    if published:
        theirs = paper.TABLE_5[0].base if number == 5 else paper.BASE
        ours = ", ".join(dict.fromkeys(entry.first.base for entry in entries))
        notes.append(f"published: {paper.SOURCE}, Table {number}, on {theirs}, its authors' data; our base: {ours}")
    return tuple(notes)


def _why_no_average(run: Run) -> str:
    absent = [name for name in run.missing if name not in run.files]
    partial = [name for name in run.missing if name in run.files]
    told = [f"{_heads(names)} {what}" for names, what in ((absent, "missing"), (partial, "partial")) if names]
    names = "cme" if len(run.missing) == len(ELEVEN) else " ".join(run.missing)
    command = f"llava-teamlora evaluate run {names} --model {run.path}{run.data_root()}"
    return f"no average of {run.path}: {'; '.join(told)}; {command}"


def _heads(names: Sequence[str]) -> str:
    return "all tasks" if len(names) == len(ELEVEN) else ", ".join(HEADS[name] for name in names)
