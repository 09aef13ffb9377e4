"""How a row of a public set becomes a training example: one form for the many sets that share it.

A row that makes no example (a field is missing, an answer is empty) comes out as a :class:`BadRow`, for the caller to
refuse or to count. A file that is broken as such raises UserError, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.streaming import stream_list
from llava_teamlora.evaluation.cme.task import TextTask
from llava_teamlora.evaluation.reading import open_bytes, stream_json_lines, take


@dataclass(frozen=True)
class Example:
    """One row, ready to be written but for an instruction that is drawn.

    Attributes:
        where: ``file, line n``.
        instruction: the row's own; empty where one of its set's is drawn, or where the input says all.
        input: what stands below it; empty where there is none.
        output: the answer.
        texts: the row's own words without labels and frames, by which duplicates and leaks are found.
    """

    where: str
    instruction: str
    input: str
    output: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class BadRow:
    """A row that makes no example.

    Attributes:
        where: ``file, line n``.
        problem: why.
        usual: whether sound files have such rows, so that they are left out even where bad rows are refused.
    """

    where: str
    problem: str
    usual: bool = False


class Form(Protocol):
    """A way to read files."""

    @property
    def version(self) -> str:
        """Changes whenever the examples of a file could."""
        ...

    @property
    def instructions(self) -> tuple[str, ...]:
        """What an instruction is drawn from; empty where every row has its own or needs none."""
        ...

    def examples(self, path: Path, group: str) -> Iterator[Example | BadRow]:
        """Stream a file's rows."""
        ...


class TaskForm:
    """The rows of one of the eleven tasks, as its own module reads them."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def task(self) -> TextTask:
        """The task of that name."""
        from llava_teamlora.evaluation.benchmarks import get_benchmark

        task = get_benchmark(self.name)
        assert isinstance(task, TextTask), self.name
        return task

    @property
    def version(self) -> str:
        """The task's."""
        return f"task {self.task.version}"

    @property
    def instructions(self) -> tuple[str, ...]:
        """The one that evaluation asks with, and its paraphrases."""
        return (self.task.instruction, *self.task.paraphrases) if self.task.instruction else ()

    def examples(self, path: Path, group: str) -> Iterator[Example | BadRow]:
        """See Form. What the task's module refuses in a file ends the stream."""
        for item in self.task.items(path, group):
            if item.answers:
                yield _checked(Example(item.where, "", item.input, item.answers[0], item.texts))
            else:
                yield BadRow(item.where, "has no answer", usual=True)


@dataclass(frozen=True)
class Fields:
    """Rows of an instruction, perhaps an input, and an answer, under whatever names.

    Attributes:
        output: the answer's field.
        instruction: the instruction's field.
        input: the input's field; empty if there is none. Where a row's instruction is empty the input stands for it.
        framed: the instruction is one of few (a system prompt), no text of the row's own.
        nothing: what stands in the input where there is none, in small letters.
        version: see Form.
    """

    output: str = "output"
    instruction: str = "instruction"
    input: str = "input"
    framed: bool = False
    # Differs from the authors' example, one of whose records keeps its "<none>": it says nothing.
    nothing: tuple[str, ...] = ("<noinput>", "<none>")
    version: str = "fields 1"

    instructions = ()

    def examples(self, path: Path, group: str) -> Iterator[Example | BadRow]:
        """See Form."""
        for where, row in any_rows(path):
            try:
                instruction = _text(row, self.instruction, where)
                # Absent in some editions' rows that have none.
                given = _text(row, self.input, where) if row.get(self.input) is not None else ""
                output = _text(row, self.output, where)
            except UserError as error:
                yield _bad(where, error)
                continue
            if given.strip().lower() in self.nothing:
                given = ""
            if not instruction.strip():
                instruction, given = given, ""
            own = (instruction, given) if given and not self.framed else (given or instruction,)
            yield _checked(Example(where, instruction, given, output, own))


@dataclass(frozen=True)
class Labels:
    """Rows of a text and a label, a number or a word; the instruction is drawn from ours.

    Attributes:
        names: of the labels in the order of their numbers.
        instructions: see Form.
        text: the text's field.
        label: the label's field.
        version: see Form.
    """

    names: tuple[str, ...]
    instructions: tuple[str, ...]
    text: str = "text"
    label: str = "label"
    version: str = "labels 1"

    def examples(self, path: Path, group: str) -> Iterator[Example | BadRow]:
        """See Form."""
        known: Mapping[Any, str] = {
            **{name: name for name in self.names},
            **dict(enumerate(self.names)),
            **{str(number): name for number, name in enumerate(self.names)},
        }
        for where, row in any_rows(path):
            try:
                text = _text(row, self.text, where)
                label = take(row, self.label, (str, int), where)
            except UserError as error:
                yield _bad(where, error)
                continue
            if label not in known:
                yield BadRow(where, f"{self.label!r} must be one of {', '.join(self.names)}, found {label!r:.80}")
                continue
            yield _checked(Example(where, "", text, known[label], (text,)))


@dataclass(frozen=True)
class Dialogue:
    """Rows of a conversation, of which the first question and its answer are taken; a system prompt is its instruction.

    Attributes:
        turns: the field of the list of turns.
        role: a turn's field that says who speaks.
        text: a turn's field of what is said.
        version: see Form.
    """

    turns: str = "messages"
    role: str = "role"
    text: str = "content"
    version: str = "dialogue 1"

    instructions = ()

    def examples(self, path: Path, group: str) -> Iterator[Example | BadRow]:
        """See Form."""
        for where, row in any_rows(path):
            try:
                said = [self._turn(turn, where) for turn in take(row, self.turns, list, where)[:3]]
            except UserError as error:
                yield _bad(where, error)
                continue
            system = said.pop(0)[1] if said and said[0][0] == "system" else ""
            if [_ROLES.get(role) for role, _ in said[:2]] != ["question", "answer"]:
                found = ", ".join(repr(role) for role, _ in said) or "none"
                yield BadRow(
                    where, f"{self.turns!r} must begin with a question and its answer; its speakers are {found}"
                )
                continue
            question, answer = said[0][1], said[1][1]
            instruction, given = (system, question) if system.strip() else (question, "")
            yield _checked(Example(where, instruction, given, answer, (question,)))

    def _turn(self, turn: Any, where: str) -> tuple[str, str]:
        return _text(turn, self.role, where), _text(turn, self.text, where)


_ROLES = {"user": "question", "human": "question", "assistant": "answer", "gpt": "answer"}


def any_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream a file's rows. What is named ``.json`` may hold a list, or objects one a line, as BELLE's files do."""
    if path.suffix != ".json":
        yield from rows(path)
    elif _begins(path) == b"{":
        yield from stream_json_lines(path)
    else:
        yield from stream_list(path)


def _begins(path: Path) -> bytes:
    with open_bytes(path) as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _text(row: Any, field: str, where: str) -> str:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object, found {row!r:.80}")
    return take(row, field, str, where)


def _bad(where: str, error: UserError) -> BadRow:
    return BadRow(where, str(error).removeprefix(f"{where}: "))


def _checked(example: Example) -> Example | BadRow:
    """The example itself, unless training could not read it."""
    if not example.output.strip():
        return BadRow(example.where, "its answer is empty")
    if not (example.instruction or example.input).strip():
        return BadRow(example.where, "its question is empty")
    for text in (example.instruction, example.input, example.output):
        if IMAGE_TOKEN in text:
            return BadRow(example.where, f"holds {IMAGE_TOKEN}, which stands for a picture in training")
    return example
