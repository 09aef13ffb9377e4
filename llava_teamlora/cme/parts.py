"""Second pass over a set: the rows that were chosen, looked through for leaks, written in parts.

A part is a stretch of a set's rows: ``<set>-<n>.jsonl`` with those that are kept, then ``.json`` with what was found in
it. Both appear whole or not at all, so that a build that was killed goes on after its last finished part.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from llava_teamlora.cme.forms import Example
from llava_teamlora.cme.leaks import LeakIndex, batches
from llava_teamlora.cme.plan import Input, Options
from llava_teamlora.cme.survey import examples
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import write_atomically

PART_ROWS = 20_000
_FIRST = 5


@dataclass(frozen=True)
class Part:
    """A finished part: the file of its records, and the file of what was found."""

    records: Path
    facts: Path

    def read_facts(self) -> dict[str, Any]:
        """``kept``: how many records; ``leaks``: list of those found, ``dropped`` or not."""
        return read_json_object(self.facts)


@dataclass(frozen=True)
class Writer:
    """Writes the parts of one set.

    Attributes:
        given: the set.
        chosen: for each row, bool [rows].
        priorities: of each row, uint64 [rows]; they choose the instruction too.
        index: evaluation items.
        options: of the build.
        folder: of the parts.
    """

    given: Input
    chosen: np.ndarray
    priorities: np.ndarray
    index: LeakIndex
    options: Options
    folder: Path

    def write(self, told: Callable[[int], None]) -> list[Part]:
        """Write the parts that are not there.

        Args:
            told: called with the number of rows that are done.

        Raises:
            UserError: the set's files are not what they were in the first pass, or the disk is full.
        """
        starts = range(0, len(self.chosen), PART_ROWS)
        parts = [self._part(number) for number in range(len(starts))]
        if all(part.facts.exists() for part in parts):
            told(len(self.chosen))
            return parts
        rows = (row for row in examples(self.given.source.form, self.given.files) if isinstance(row, Example))
        for part, start in zip(parts, starts, strict=True):
            stretch = enumerate(islice(rows, PART_ROWS), start=start)
            end = min(start + PART_ROWS, len(self.chosen))
            if part.facts.exists():
                read = sum(1 for _ in stretch)
            else:
                read = self._write_part(part, stretch)
            if read < end - start:
                raise self._changed()
            told(read)
        if next(rows, None) is not None:
            raise self._changed()
        return parts

    def _part(self, number: int) -> Part:
        name = f"{self.given.source.name}-{number:05}"
        return Part(self.folder / f"{name}.jsonl", self.folder / f"{name}.json")

    def _changed(self) -> UserError:
        files = ", ".join(str(path) for path, _ in self.given.files)
        return UserError(f"{files}: changed while the mix was built; begin anew with --overwrite")

    def _write_part(self, part: Part, stretch: Iterator[tuple[int, Example]]) -> int:
        facts: dict[str, Any] = {"read": 0, "kept": 0, "leaks": []}
        write_atomically(part.records, self._lines(stretch, facts))
        write_atomically(part.facts, json.dumps(facts, ensure_ascii=False))
        return facts["read"]

    def _lines(self, stretch: Iterator[tuple[int, Example]], facts: dict[str, Any]) -> Iterator[str]:
        for batch in batches(self._chosen(stretch, facts), lambda row: row[1].texts):
            leaks = self.index.check([example.texts for _, example in batch])
            for (position, example), leak in zip(batch, leaks, strict=True):
                dropped = leak is not None and self.options.leaks == "drop" and leak.reason in self.options.leak_reasons
                if leak:
                    facts["leaks"].append(
                        {
                            "source": self.given.source.name,
                            "where": example.where,
                            "reason": leak.reason,
                            "evaluation": leak.place,
                            "dropped": dropped,
                        }
                    )
                if not dropped:
                    facts["kept"] += 1
                    yield self._record(example, int(self.priorities[position]))

    def _chosen(self, stretch: Iterator[tuple[int, Example]], facts: dict[str, Any]) -> Iterator[tuple[int, Example]]:
        for position, example in stretch:
            facts["read"] += 1
            if position >= len(self.chosen):
                raise self._changed()
            if self.chosen[position]:
                yield position, example

    def _record(self, example: Example, priority: int) -> str:
        """One line of the mix. The priority's last bits draw the instruction; its first ones chose the row."""
        drawn = self.given.instructions
        if self.options.paraphrases == "one":
            drawn = drawn[:1]
        instruction = example.instruction or (drawn[priority % len(drawn)] if drawn else "")
        row = {
            "instruction": instruction or example.input,
            "input": example.input if instruction else "",
            "output": example.output,
            "task": self.given.source.name,
        }
        return json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Tally:
    """What was found in a set.

    Attributes:
        kept: records.
        leaks: rows that leak, by reason.
        dropped: those of them that were left out.
        first: the first few of them.
    """

    kept: int
    leaks: dict[str, int]
    dropped: int
    first: list[dict[str, Any]]


def tally(parts: Sequence[Part]) -> Tally:
    """Count through the parts of a set, one at a time: a set may have many leaks."""
    kept = dropped = 0
    leaks: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    for part in parts:
        facts = part.read_facts()
        kept += facts["kept"]
        dropped += sum(leak["dropped"] for leak in facts["leaks"])
        leaks.update(leak["reason"] for leak in facts["leaks"])
        first += facts["leaks"][: _FIRST - len(first)]
    return Tally(kept, dict(sorted(leaks.items())), dropped, first)
