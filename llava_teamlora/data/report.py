"""What a whole look at training data found: a :class:`Report`, as JSON for programs and as a table for people.

In: data files and all that :mod:`llava_teamlora.data.check` looks with. Out: the records that can be trained on, and
the report on all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from llava_teamlora.data import check
from llava_teamlora.data.check import ALONE, BAD, ODD, Finding, Measured, Share
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.records import Record

_FORMAT = 1
_ODD_LISTED = 1000
"""Findings of one odd kind that are listed; all are counted. Bad ones are listed all."""


@dataclass(frozen=True)
class Lengths:
    """Records in tokens, pictures expanded, before the length limit; ``trained`` within it."""

    limit: int
    longest: int
    median: int
    tokens: int
    image_tokens: int
    trained: int


@dataclass(frozen=True)
class Report:
    """What was looked at and found.

    Attributes:
        records: number of records of each data file, bad ones too.
        pictures: different ones.
        text_only: records without a picture.
        lengths: of all records that can be encoded.
        findings: bad and odd ones, in order of file and record.
        seconds: that it took.
    """

    records: dict[str, int]
    pictures: int
    text_only: int
    lengths: Lengths
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def bad(self) -> list[Finding]:
        """The first bad finding of each record that cannot be trained on."""
        first: dict[tuple[str, int], Finding] = {}
        for finding in self.findings:
            if finding.bad:
                first.setdefault((finding.file, finding.index), finding)
        return list(first.values())

    def as_json(self) -> str:
        """For ``data_report.json``."""
        listed: list[dict[str, Any]] = []
        seen = dict.fromkeys(ODD, 0)
        for finding in self.findings:
            if not finding.bad:
                seen[finding.kind] += 1
            if finding.bad or seen[finding.kind] <= _ODD_LISTED:
                listed.append({"bad": finding.bad, **asdict(finding)})
        counts = check.counts(self.findings)
        content = {
            "llava_teamlora_data_report": _FORMAT,
            "records": self.records,
            "text_only": self.text_only,
            "pictures": self.pictures,
            "tokens": asdict(self.lengths),
            "unusable_records": len(self.bad),
            "bad": {kind: number for kind, number in counts.items() if kind in BAD},
            "odd": {kind: number for kind, number in counts.items() if kind in ODD},
            "findings": listed,
            "findings_not_listed": len(self.findings) - len(listed),
            "seconds": round(self.seconds, 1),
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def table(self) -> Table:
        """Kinds of findings, bad ones first, with how many and the first of each."""
        title = (
            f"{sum(self.records.values()):,} records ({self.text_only:,} text-only), {self.pictures:,} pictures, "
            f"{self.lengths.tokens:,} tokens (median {self.lengths.median:,}, longest {self.lengths.longest:,}), "
            f"looked at in {self.seconds:.1f} s"
        )
        table = Table("", "finding", "number", "meaning", "first", title=title, title_justify="left")
        for kind, number in check.counts(self.findings).items():
            first = next(finding for finding in self.findings if finding.kind == kind)
            style, word = ("red", "bad") if kind in BAD else ("yellow", "odd")
            meaning = Text((BAD | ODD)[kind])
            table.add_row(Text(word, style), Text(kind), f"{number:,}", meaning, Text(str(first)))
        return table

    def refusal(self, shown: int = 3) -> str:
        """How many records are bad, of what kinds, and the first of them."""
        bad = self.bad
        kinds = check.counts(bad)
        number, total = len(bad), sum(self.records.values())
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        more = f"; and {number - shown} more" if number > shown else ""
        return f"{number:,} of {total:,} records cannot be used ({what}): {'; '.join(map(str, bad[:shown]))}{more}"


def check_files(
    paths: Sequence[str],
    image_folder: str | None,
    encoder: Callable[[list[Record]], ConversationDataset],
    *,
    share: Share = ALONE,
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[dict[str, list[Record]], Report]:
    """Look at all of some data files.

    Args:
        paths: different data files.
        image_folder: what their pictures' paths are relative to.
        encoder: records -> samples that tokenize them as training does.
        share: of several processes, which all call this with the same files.
        workers: further processes of this one.
        progress: shows how far it is.

    Returns:
        The good records of each file, and the report.

    Raises:
        UserError: a file cannot be read at all, there is no such picture folder, or records have pictures that the
            model does not take.
    """
    started = time.monotonic()
    files: dict[str, list[Record]] = {}
    findings: list[Finding] = []
    read: dict[str, int] = {}
    for path in paths:
        records, broken = check.collect_records(path)
        read[path] = len(records) + len(broken)
        findings += [*broken, *check.repeated_ids(records), *check.empty_answers(records)]
        files[path] = records
    everything = [record for records in files.values() for record in records]
    names = {name for record in everything for name in record.images}
    with progress or nullcontext():
        ticks = _ticks(progress, "Decoding pictures", -(-len(names) // share.processes))
        findings += check.look_at_pictures(everything, image_folder, share, ticks)
        samples = encoder(everything)
        ticks = _ticks(progress, "Tokenizing", -(-len(everything) // share.processes))
        measured = check.measure(samples, share, workers, ticks)
    findings += check.odd_lengths(samples, measured)
    order = {path: number for number, path in enumerate(paths)}
    findings.sort(key=lambda finding: (order[finding.file], finding.index))
    report = Report(
        records=read,
        pictures=len(names),
        text_only=sum(not record.images for record in everything),
        lengths=_lengths(measured, samples.max_length),
        findings=tuple(findings),
        seconds=time.monotonic() - started,
    )
    unusable = {(finding.file, finding.index) for finding in report.bad}
    good = {
        path: [record for record in records if (path, record.index) not in unusable] for path, records in files.items()
    }
    return good, report


def _ticks(progress: Progress | None, text: str, total: int) -> Callable[[int], object] | None:
    if progress is None:
        return None
    task = progress.add_task(text, total=total)
    return lambda number: progress.advance(task, number)


def _lengths(measured: Sequence[Measured], limit: int) -> Lengths:
    whole = [one for one in measured if one.problem is None]
    tokens = [one.tokens for one in whole] or [0]
    return Lengths(
        limit=limit,
        longest=max(tokens),
        median=round(median(tokens)),
        tokens=sum(tokens),
        image_tokens=sum(one.image_tokens for one in whole),
        trained=sum(one.trained for one in whole),
    )


def skipped_json(report: Report) -> str:
    """For ``skipped.json``: the records that are left out, each with its reason."""
    rows = [{"file": f.file, "index": f.index, "id": f.id, "reason": f.reason} for f in report.bad]
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    return f'{{"llava_teamlora_skipped": {_FORMAT}, "number": {len(rows)}, "records": [\n{lines}\n]}}\n'


def to_ranges(indices: Sequence[int]) -> str:
    """Rising numbers as text: ``[1, 2, 3, 7]`` -> ``"1-3,7"``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)


def from_ranges(text: str) -> set[int]:
    """The other way round."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
