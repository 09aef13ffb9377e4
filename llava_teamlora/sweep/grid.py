"""A grid of runs: what GRID.yaml may say, and the cells it stands for.

In: a YAML file (docs/sweeps.md has every key). Out: a :class:`Grid`. Here names and shapes are checked; the flags of
every cell are checked by the trainer's own parser (flag_check.py), those of the evaluation by its own (evaluation.py).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.sweep.yaml_file import load_yaml, with_variables

SEED = "seed"
"""The axis that results are averaged over."""
_KEYS = ("out", "base", "grid", "cells", "prepare", "evaluate", "report", "gpus_per_cell")
_OURS = {
    "output_dir": "every cell has a folder of its own in `out`",
    "overwrite_output_dir": "to start a cell anew, remove its folder",
    "resume_from_checkpoint": "a cell goes on from its last checkpoint by itself",
    "dry_run": "llava-teamlora sweep has --dry_run",
    "help": "llava-teamlora train --help lists the flags",
}
_LONGEST_NAME = 150
Flags = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: of its folder, unique.
        label: of its row in tables; cells that differ in nothing but their seed share it.
        axes: what it has of each axis, by the axis' name; that of ``cells`` is ``label``.
        flags: of ``llava-teamlora train``, with those common to all.
    """

    name: str
    label: str
    axes: Mapping[str, Any]
    flags: Flags


@dataclass(frozen=True)
class Preparation:
    """A command that is run once, before the cells.

    Attributes:
        run: its words.
        creates: files and folders; when one is gone, the command is run again.
    """

    run: str
    creates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """All of GRID.yaml.

    Attributes:
        path: of the file.
        out: the sweep's folder.
        cells: in the file's order.
        axes: names, in the file's order.
        prepare: commands before the first cell.
        evaluate: flags of ``llava-teamlora evaluate run``, with ``benchmarks``; None evaluates nothing.
        untuned: whether the base itself is evaluated too.
        report: what else is drawn up at the end; see reports.py.
        gpus_per_cell: processes of one cell.
    """

    path: Path
    out: Path
    cells: tuple[Cell, ...]
    axes: tuple[str, ...]
    prepare: tuple[Preparation, ...]
    evaluate: Flags | None
    untuned: bool
    report: Mapping[str, Any]
    gpus_per_cell: int


def read_grid(path: Path) -> Grid:
    """Read and check a grid.

    Raises:
        UserError: it cannot be read, a key or a value is not one, or two cells are the same.
    """
    content = _mapping(with_variables(load_yaml(path), path), str(path))
    _refuse_unknown(content, _KEYS, str(path))
    if not isinstance(content.get("out"), str):
        raise UserError(f"{path}: out is not given; name the sweep's folder, as out: runs/my-sweep")
    base = _flags(content.get("base"), f"{path}, base")
    axes = _axes(content.get("grid"), f"{path}, grid")
    rows = _rows(content.get("cells"), f"{path}, cells")
    if rows:
        axes = {"label": rows, **axes}
    evaluate = dict(_mapping(content.get("evaluate"), f"{path}, evaluate"))
    untuned = evaluate.pop("untuned", False)
    if not isinstance(untuned, bool):
        raise UserError(f"{path}, evaluate, untuned: {untuned!r} is not true or false")
    gpus = content.get("gpus_per_cell", 1)
    if type(gpus) is not int or gpus < 1:
        raise UserError(f"{path}, gpus_per_cell: {gpus!r} is not a whole number of at least 1")
    return Grid(
        path=path,
        out=Path(content["out"]),
        cells=_cells(axes, base, path),
        axes=tuple(axes),
        prepare=_preparations(content.get("prepare"), axes, f"{path}, prepare"),
        evaluate=evaluate or None,
        untuned=untuned,
        report=_mapping(content.get("report"), f"{path}, report"),
        gpus_per_cell=gpus,
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected 'name: value' lines, found {type(value).__name__}")
    return {str(key): inner for key, inner in value.items()}


def _refuse_unknown(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}; there are {', '.join(known)}")


def _flags(value: Any, where: str) -> Flags:
    flags = {key.removeprefix("--").replace("-", "_"): inner for key, inner in _mapping(value, where).items()}
    for name, inner in flags.items():
        if name in _OURS:
            raise UserError(f"{where}: {name} is not for a grid; {_OURS[name]}")
        if isinstance(inner, (dict, list)):
            raise UserError(f"{where}, {name}: expected one value, found a {type(inner).__name__}; axes stand in grid")
    return flags


def _axes(value: Any, where: str) -> dict[str, dict[Any, Flags]]:
    """Every axis as its values, each with the flags it stands for."""
    axes: dict[str, dict[Any, Flags]] = {}
    for name, values in _mapping(value, where).items():
        place = f"{where}, {name}"
        if name == "label":
            raise UserError(f"{place}: rows with labels stand in cells; name the axis otherwise")
        if isinstance(values, dict):
            axes[name] = {key: _flags(flags, f"{place}, {key}") for key, flags in values.items()}
        elif isinstance(values, list):
            axes[name] = {item: _flags({name: item}, f"{place}, index {i}") for i, item in enumerate(values)}
            # Of two that are equal, as 1 and true are, a mapping keeps but one.
            if min(len(axes[name]), len({str(item) for item in values})) < len(values):
                raise UserError(f"{place}: a value stands there twice")
        else:
            raise UserError(f"{place}: expected a list of values, or names with the flags that each stands for")
        if not axes[name]:
            raise UserError(f"{place}: is empty")
    return axes


def _rows(value: Any, where: str) -> dict[Any, Flags]:
    """``cells``: flags by label."""
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: expected a list of cells, each with a label and flags")
    rows: dict[Any, Flags] = {}
    for index, row in enumerate(value or ()):
        flags = _mapping(row, f"{where}, index {index}")
        label = str(flags.pop("label", "")).strip()
        if not label:
            raise UserError(f"{where}, index {index}: has no label")
        if label in rows:
            raise UserError(f"{where}, index {index}: a cell before it is labelled {label!r} too")
        rows[label] = _flags(flags, f"{where}, {label!r}")
    return rows


def _cells(axes: dict[str, dict[Any, Flags]], base: Flags, path: Path) -> tuple[Cell, ...]:
    _refuse_two_voices(axes, path)
    cells: dict[str, Cell] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        flags = dict(base)
        for axis, value in chosen.items():
            flags.update(axes[axis][value])
        # null takes a flag of `base` away: --match_params, say, goes with no --r.
        flags = {name: value for name, value in flags.items() if value is not None}
        cell = Cell(_name(chosen, path), label_of(chosen), chosen, flags)
        other = cells.get(cell.name.lower())  # some file systems take no notice of case
        if other is not None:
            raise UserError(f"{path}: two cells would have the folder {cell.name}; name their values otherwise")
        cells[cell.name.lower()] = cell
    _refuse_twins(list(cells.values()), path)
    return tuple(cells.values())


def _refuse_two_voices(axes: dict[str, dict[Any, Flags]], path: Path) -> None:
    """A flag may be one axis' only, or the last would silently win."""
    owner: dict[str, str] = {}
    for axis, values in axes.items():
        for name in {name for flags in values.values() for name in flags}:
            if owner.setdefault(name, axis) != axis:
                places = ["cells" if one == "label" else f"grid, {one}" for one in (owner[name], axis)]
                raise UserError(f"{path}: {name} is said by {places[0]} and by {places[1]}; say it in one of them")


def _refuse_twins(cells: Sequence[Cell], path: Path) -> None:
    seen: dict[tuple[tuple[str, str], ...], Cell] = {}
    for cell in cells:
        key = tuple(sorted((name, str(value)) for name, value in cell.flags.items()))
        if key in seen:
            raise UserError(f"{path}: the cells {seen[key].name} and {cell.name} have the same flags; drop one of them")
        seen[key] = cell


def label_of(axes: Mapping[str, Any], *without: str) -> str:
    """Of a row: the cell's label, then its axes but for the seed and those named."""
    parts = [str(axes["label"])] if "label" in axes else []
    parts += [f"{axis}={value}" for axis, value in axes.items() if axis not in ("label", SEED, *without)]
    return ", ".join(parts) or "all"


def _name(chosen: Mapping[str, Any], path: Path) -> str:
    parts = [value if axis == "label" else f"{axis}={value}" for axis, value in chosen.items()]
    name = ",".join(_safe(str(part)) for part in parts) or "cell"
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"{path}: the folder's name {name[:60]}… is too long; give the axis' values names, as data: "
            "{small: {data_path: FILE}, large: {data_path: FILE}}"
        )
    return name


def _safe(text: str) -> str:
    """As part of a file's name on any system and in a shell."""
    return re.sub(r"[^\w.=+-]+", "-", text, flags=re.ASCII).strip("-.") or "-"


def _preparations(value: Any, axes: Mapping[str, Any], where: str) -> tuple[Preparation, ...]:
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: expected a list of commands")
    found: list[Preparation] = []
    for index, entry in enumerate(value or ()):
        place = f"{where}, index {index}"
        said = {"run": entry} if isinstance(entry, str) else _mapping(entry, place)
        _refuse_unknown(said, ("run", "creates", "each"), place)
        creates = said.get("creates", [])
        creates = [creates] if isinstance(creates, str) else creates
        if not isinstance(said.get("run"), str) or not isinstance(creates, list):
            raise UserError(f"{place}: expected a command, or run: COMMAND with creates: FILE (or a list of files)")
        one = Preparation(said["run"], tuple(str(path) for path in creates))
        found += [one] if "each" not in said else _each(one, said["each"], axes, place)
    return tuple(found)


def _each(one: Preparation, axis: Any, axes: Mapping[str, Any], where: str) -> list[Preparation]:
    """The command once for each value of an axis, which stands there as ``{axis}``."""
    if axis not in axes:
        raise UserError(f"{where}, each: {axis!r} is no axis of grid")
    mark = f"{{{axis}}}"
    if mark not in one.run:
        raise UserError(f"{where}: each is {axis}, but {mark} does not stand in the command")
    return [
        Preparation(one.run.replace(mark, str(value)), tuple(path.replace(mark, str(value)) for path in one.creates))
        for value in axes[axis]
    ]
