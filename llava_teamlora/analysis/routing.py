"""``routing.jsonl`` of a run folder -> typed rows. Imports no torch; docs/telemetry.md says what the numbers mean.

In: the file that ``llava-teamlora train --routing_telemetry_steps N`` writes. Out: one RoutingRow for each window,
layer and adapter, in the file's order.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.constants import ROUTING_FILE, ROUTING_FORMAT
from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class GroupStatistics:
    """One group of positions in one layer; a number that was not finite is nan.

    Attributes:
        count: positions.
        participation_mean: omega of each expert, ``[k]``.
        participation_std: its standard deviation over the positions, ``[k]``.
        shapley_mean: phi of each expert, ``[k]``.
        entropy: of phi, mean over positions, nats.
        entropy_normalized: the same over log k.
        load: share of positions that prefer each expert, ``[k]``.
        dead: experts, from 0, that hardly any position prefers.
    """

    count: int
    participation_mean: tuple[float, ...]
    participation_std: tuple[float, ...]
    shapley_mean: tuple[float, ...]
    entropy: float
    entropy_normalized: float
    load: tuple[float, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True)
class InteractionStatistics:
    """The interaction matrix M: its distance from its start relative to the start's norm, its condition number."""

    drift: float
    condition: float


@dataclass(frozen=True)
class RoutingRow:
    """One adapter of one layer in one window.

    Attributes:
        step: optimizer step after which it was written.
        steps: optimizer steps of the window.
        layer: name in the base model.
        adapter: its name.
        k: experts.
        interaction: None where M is fixed at the identity.
        groups: by name; one without positions is absent.
    """

    step: int
    steps: int
    layer: str
    adapter: str
    k: int
    interaction: InteractionStatistics | None
    groups: dict[str, GroupStatistics]


def read_routing(path: str | Path) -> list[RoutingRow]:
    """Read a run folder's routing statistics; a last line without an end, which a crash may leave, is passed over.

    Args:
        path: the run folder (or a checkpoint in it), or the file itself.

    Raises:
        UserError: no such file, another format, or a broken line; names file, line and field.
    """
    path = Path(path)
    file = path / ROUTING_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; a run writes it with --routing_telemetry_steps N")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error})") from error
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [_parse_line(line, f"{file}, line {number}") for number, line in enumerate(whole, start=1)]


def _parse_line(line: str, where: str) -> RoutingRow:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    if row.get("format") != ROUTING_FORMAT:
        raise UserError(f"{where}: 'format' is {row.get('format')!r}, this program reads {ROUTING_FORMAT}")
    k = _whole(row, "k", where, least=1)
    interaction = _get(row, "interaction", (dict, type(None)), where)
    groups = _get(row, "groups", (dict,), where)
    return RoutingRow(
        step=_whole(row, "step", where, least=1),
        steps=_whole(row, "steps", where, least=1),
        layer=_get(row, "layer", (str,), where),
        adapter=_get(row, "adapter", (str,), where),
        k=k,
        interaction=None if interaction is None else _parse_interaction(interaction, f"{where}, interaction"),
        groups={name: _parse_group(group, k, f"{where}, group {name!r}") for name, group in groups.items()},
    )


def _parse_interaction(row: dict[str, Any], where: str) -> InteractionStatistics:
    return InteractionStatistics(_number(row, "drift", where), _number(row, "condition", where))


def _parse_group(row: Any, k: int, where: str) -> GroupStatistics:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    dead = _get(row, "dead", (list,), where)
    if not all(isinstance(expert, int) and 0 <= expert < k for expert in dead):
        raise UserError(f"{where}: 'dead' must name experts from 0 to {k - 1}, found {dead}")
    return GroupStatistics(
        count=_whole(row, "count", where, least=1),
        participation_mean=_numbers(row, "participation_mean", k, where),
        participation_std=_numbers(row, "participation_std", k, where),
        shapley_mean=_numbers(row, "shapley_mean", k, where),
        entropy=_number(row, "entropy", where),
        entropy_normalized=_number(row, "entropy_normalized", where),
        load=_numbers(row, "load", k, where),
        dead=tuple(dead),
    )


def _get(row: dict[str, Any], name: str, kinds: tuple[type, ...], where: str) -> Any:
    if name not in row:
        raise UserError(f"{where}: has no {name!r}")
    if not isinstance(row[name], kinds) or isinstance(row[name], bool):
        raise UserError(f"{where}: {name!r} must be of type {kinds[0].__name__}, found {row[name]!r}")
    return row[name]


def _whole(row: dict[str, Any], name: str, where: str, least: int) -> int:
    value = _get(row, name, (int,), where)
    if value < least:
        raise UserError(f"{where}: {name!r} must be at least {least}, found {value}")
    return value


def _number(row: dict[str, Any], name: str, where: str) -> float:
    value = _get(row, name, (float, int, type(None)), where)
    return math.nan if value is None else float(value)


def _numbers(row: dict[str, Any], name: str, k: int, where: str) -> tuple[float, ...]:
    values = _get(row, name, (list,), where)
    if len(values) != k:
        raise UserError(f"{where}: {name!r} must hold {k} numbers, one an expert, found {len(values)}")
    return tuple(_number({name: value}, name, where) for value in values)
