"""LLaVA's JSON on disk -> checked records in memory.

In: a path to a JSON list (or JSON lines) of ``{id, image?: str | [str], conversations: [{from, value}], task?: str}``,
or for text alone of ``{instruction, input?, output, task?: str}``. Out: a list of :class:`Record`. Everything that can
be known without opening a picture is checked here, so that a bad record is refused before a model is loaded. Formats:
LLaVA, ``docs/Finetune_Custom_Data.md``; the CME example that TeamLoRA's authors published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError

Role = Literal["human", "gpt"]
_ROLES: tuple[Role, Role] = ("human", "gpt")


@dataclass(frozen=True)
class Turn:
    """One utterance. Each ``IMAGE_TOKEN`` in the human's text is the place of one picture."""

    role: Role
    text: str


@dataclass(frozen=True)
class Record:
    """One conversation, with the place it came from for error messages.

    Attributes:
        source: file the record was read from.
        index: position in that file, from 0.
        id: the record's own id, or its index as text.
        images: picture paths as written, relative to the image folder, in the order of the markers in the human's
            turns. Empty for a text-only record.
        turns: human, gpt, human, gpt, …; always an even number, at least two.
        task: a tag that routing statistics are split by (our addition to LLaVA's format); None if there is none.
    """

    source: str
    index: int
    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    task: str | None = None

    @property
    def where(self) -> str:
        """``file, record i (id …)``: how every message about this record begins."""
        return f"{self.source}, record {self.index} (id {self.id})"

    @property
    def words(self) -> int:
        """Words of all turns: LLaVA's measure of length for grouping (a picture is one word)."""
        return sum(len(turn.text.split()) for turn in self.turns)


def load_records(path: str | Path) -> list[Record]:
    """Read and check one LLaVA data file (``.json`` list or ``.jsonl`` lines).

    Raises:
        UserError: no such file, broken JSON (with line and column), or a record that breaks the format; the
            message names file, record index and field.
    """
    path = Path(path)
    return [parse_record(row, source=str(path), index=index) for index, row in enumerate(read_rows(path))]


@dataclass(frozen=True)
class BrokenLine:
    """Stands for a line of a ``.jsonl`` file that is no JSON."""

    reason: str


def read_rows(path: Path, *, with_broken_lines: bool = False) -> list[Any]:
    """The records of a data file as JSON gives them, unchecked.

    Args:
        path: ``.json`` or ``.jsonl``.
        with_broken_lines: let a :class:`BrokenLine` stand for a line of a ``.jsonl`` file that is no JSON.

    Raises:
        UserError: no such file, broken JSON, no list, or an empty one.
    """
    rows = _rows(path, with_broken_lines)
    if not rows:
        raise UserError(f"{path}: holds no records")
    return rows


def _rows(path: Path, with_broken_lines: bool) -> list[Any]:
    if not path.is_file():
        kind = "is a folder, not a JSON file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {kind}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        if path.suffix == ".jsonl":
            return _parse_lines(text, with_broken_lines)
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " (one record a line? name it .jsonl)" if error.msg == "Extra data" else ""
        raise UserError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        ) from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list of records, found {type(rows).__name__}")
    return rows


def _parse_lines(text: str, with_broken: bool) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if not with_broken:
                raise json.JSONDecodeError(error.msg, "\n" * (number - 1) + line, number - 1 + error.pos) from error
            rows.append(BrokenLine(f"broken JSON at line {number}, column {error.colno}: {error.msg}"))
    return rows


def parse_record(row: Any, *, source: str, index: int) -> Record:
    """Check one raw record and give it its type.

    A single picture is moved to the front of its turn, as in LLaVA. Several stay where their markers stand, in one
    question or in many. A record whose markers and pictures disagree is refused: LLaVA then drops the picture or
    consumes the next record's.

    Raises:
        UserError: naming ``source``, ``index`` and the field.
    """
    here = f"{source}, record {index}"
    if not isinstance(row, dict):
        raise UserError(f"{here}: expected an object, found {type(row).__name__}")
    identity = str(row.get("id", index))
    here = f"{here} (id {identity})"
    images = _parse_images(row, here)
    raw_turns = _parse_instruction(row, here) if "instruction" in row else _parse_conversations(row, here)
    _check_markers(raw_turns, images, here)
    turns = tuple(_marker_first(turn) for turn in raw_turns) if len(images) == 1 else tuple(raw_turns)
    return Record(source, index, identity, images, turns, _parse_task(row, here))


def _marker_first(turn: Turn) -> Turn:
    # LLaVA strips white space only where a marker stood; other turns keep theirs, so that ids agree.
    if IMAGE_TOKEN not in turn.text:
        return turn
    text = turn.text.replace(IMAGE_TOKEN, "").strip()
    return Turn(turn.role, f"{IMAGE_TOKEN}\n{text}".strip())


def _parse_images(row: dict[str, Any], here: str) -> tuple[str, ...]:
    value = row.get("image")
    if value is None:
        return ()
    images = [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not images or not all(isinstance(i, str) and i for i in images):
        raise UserError(f"{here}: 'image' must be a path or a non-empty list of paths, found {value!r}")
    return tuple(images)


def _parse_task(row: dict[str, Any], here: str) -> str | None:
    task = row.get("task")
    if task is None:
        return None
    if not isinstance(task, str) or not task.strip() or task != task.strip() or not task.isprintable():
        raise UserError(f"{here}: 'task' must be a name (one line of text without spaces around it), found {task!r}")
    return task


def _parse_instruction(row: dict[str, Any], here: str) -> list[Turn]:
    """A question (the instruction, with the input in the lines below it where there is one) and its answer."""
    if "conversations" in row:
        raise UserError(f"{here}: has both 'instruction' and 'conversations'; keep one of them")
    given = row.get("input")
    if not isinstance(given, (str, type(None))):
        raise UserError(f"{here}: 'input' must be a text, or be left out, found {given!r}")
    for field, text in (("instruction", row["instruction"]), ("output", row.get("output"))):
        # The authors' example has an instruction without words above an input with them.
        wordless = not isinstance(text, str) or not (text.strip() or (field == "instruction" and (given or "").strip()))
        if wordless:
            raise UserError(f"{here}: {field!r} must be a text with words, found {text!r}")
    question = f"{row['instruction']}\n{given}" if given else row["instruction"]
    return [Turn("human", question), Turn("gpt", row["output"])]


def _parse_conversations(row: dict[str, Any], here: str) -> list[Turn]:
    conversations = row.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise UserError(
            f"{here}: 'conversations' must be a non-empty list of {{from, value}} (or the record has 'instruction', "
            "'input' and 'output')"
        )
    turns = []
    for position, raw in enumerate(conversations):
        field = f"conversations[{position}]"
        if not isinstance(raw, dict) or not isinstance(raw.get("value"), str):
            raise UserError(f"{here}: {field} must be {{from, value}} with a text value, found {raw!r}")
        if raw.get("from") not in _ROLES:
            raise UserError(
                f"{here}: {field}.from must be 'human' or 'gpt' (not 'user', 'assistant' or 'system'), found "
                f"{raw.get('from')!r}; --check_data True lists all such records"
            )
        turns.append(Turn(raw["from"], raw["value"]))
    if turns[0].role != "human":
        if IMAGE_TOKEN in turns[0].text:
            raise UserError(f"{here}: {IMAGE_TOKEN} stands in the first turn, which is gpt's and is dropped")
        turns = turns[1:]  # LLaVA drops a first turn that is not the human's
    for position, turn in enumerate(turns):
        if turn.role != _ROLES[position % 2]:
            raise UserError(f"{here}: turns must alternate human, gpt; turn {position} is from {turn.role!r}")
    if len(turns) % 2 or not turns:
        raise UserError(f"{here}: the last turn must be gpt's answer; add it or drop the last question")
    return turns


def _check_markers(turns: Sequence[Turn], images: tuple[str, ...], here: str) -> None:
    counts = {position: turn.text.count(IMAGE_TOKEN) for position, turn in enumerate(turns)}
    total = sum(counts.values())
    if total and not images:
        raise UserError(f"{here}: {total} x {IMAGE_TOKEN} but no 'image' field; remove it or name a picture")
    if images and not total:
        raise UserError(f"{here}: 'image' is given but no turn holds {IMAGE_TOKEN}; add it to the question")
    for position, turn in enumerate(turns):
        if turn.role == "gpt" and counts[position]:
            raise UserError(f"{here}: {IMAGE_TOKEN} stands in gpt's turn {position}; it belongs in a question")
    if total != len(images):
        places = ", ".join(f"{count} in turn {position}" for position, count in counts.items() if count)
        raise UserError(
            f"{here}: {total} x {IMAGE_TOKEN} ({places}) for {len(images)} picture(s); each picture needs exactly one"
        )
