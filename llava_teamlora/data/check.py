"""A whole look at training data before anything heavy is loaded (``--check_data``, ``--on_bad_sample skip``).

In: data files, the picture folder, and samples that know how records become tokens. Out: a :class:`Report` of all
findings, bad ones (the record cannot be trained on) and odd ones (it can, but perhaps not as meant). Every record is
parsed, every picture decoded to its end, every conversation tokenized as training does it. Several processes share the
pictures and the records, and end up with the same report.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.images import in_threads, picture_folder
from llava_teamlora.data.records import BrokenLine, Record, parse_record, read_rows
from llava_teamlora.data.tokenize import truncate
from llava_teamlora.errors import UserError

BAD = {
    "format": "breaks LLaVA's format",
    "picture missing": "its picture is not there",
    "picture broken": "its picture cannot be decoded to its end",
    "not encodable": "does not fit the template, or a picture's tokens do not fit --model_max_length",
}
"""Kinds of findings that make a record unusable."""

ODD = {
    "nothing trained": "no trained token lies within --model_max_length",
    "cut off": "longer than --model_max_length, and loses its end",
    "empty answer": "an answer is empty",
    "duplicate id": "an earlier record of the file has the same id",
    "animated": "only the first frame is seen",
    "16-bit": "more than 8 bits a channel, clipped to 8: mostly white or black",
    "CMYK": "in printing colours, converted without a profile",
    "transparent": "what is transparent gets the colour that lies beneath it",
    "EXIF-rotated": "viewers turn it, LLaVA and this trainer do not",
    "tiny": "a side is shorter than 8 pixels",
    "huge": "more than 40 megapixels: slow to read",
}
"""Kinds of findings that do not."""

_TINY_SIDE = 8
_HUGE_PIXELS = 40_000_000
_ORIENTATION = 0x0112
_WORTH_PROCESSES = 5_000
"""Records from which on further processes are quicker than they start."""


@dataclass(frozen=True)
class Finding:
    """Something about one record.

    Attributes:
        file: data file.
        index: position in it, from 0.
        id: the record's id, or its index as text.
        kind: key of BAD or ODD.
        reason: in words.
    """

    file: str
    index: int
    id: str
    kind: str
    reason: str

    @property
    def bad(self) -> bool:
        """Whether the record cannot be trained on."""
        return self.kind in BAD

    def __str__(self) -> str:
        return f"{self.file}, record {self.index} (id {self.id}): {self.reason}"


@dataclass(frozen=True)
class Share:
    """One process's part of the work.

    Attributes:
        rank: number of this process, from 0.
        processes: how many share.
        gather: lists of all processes in one, in order of rank; called by all of them.
    """

    rank: int = 0
    processes: int = 1
    gather: Callable[[list[Any]], list[Any]] = list


ALONE = Share()


@dataclass(frozen=True)
class Measured:
    """One record as tokens: how many, how many of them pictures' and (within the limit) trained; or what is wrong."""

    position: int
    tokens: int = 0
    image_tokens: int = 0
    trained: int = 0
    problem: str | None = None


Progress = Callable[[int], object]


def collect_records(path: str | Path) -> tuple[list[Record], list[Finding]]:
    """Read a data file as :func:`load_records` does, but go on after a bad record.

    Returns:
        The good records, and a finding for each other one.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    records: list[Record] = []
    findings: list[Finding] = []
    for index, row in enumerate(read_rows(Path(path), with_broken_lines=True)):
        try:
            if isinstance(row, BrokenLine):
                raise UserError(row.reason)
            records.append(parse_record(row, source=str(path), index=index))
        except UserError as error:
            name = str(row["id"]) if isinstance(row, dict) and "id" in row else str(index)
            findings.append(Finding(str(path), index, name, "format", _without_place(str(error), path, index)))
    return records, findings


def _without_place(message: str, path: str | Path, index: int) -> str:
    """A message without the ``file, record i (id …):`` that it begins with."""
    start = f"{path}, record {index}"
    return message.partition("): ")[2] or message if message.startswith(start) else message


def repeated_ids(records: Sequence[Record]) -> list[Finding]:
    """A finding for each record of one file whose id an earlier one has."""
    first: dict[str, int] = {}
    return [
        _finding(record, "duplicate id", f"record {first[record.id]} has this id too")
        for record in records
        if first.setdefault(record.id, record.index) != record.index
    ]


def empty_answers(records: Iterable[Record]) -> list[Finding]:
    """A finding for each record with an answer of nothing but white space."""
    return [
        _finding(record, "empty answer", f"turn {empty[0]} is empty")
        for record in records
        if (empty := [i for i, turn in enumerate(record.turns) if turn.role == "gpt" and not turn.text.strip()])
    ]


def look_at_pictures(
    records: Sequence[Record],
    folder: str | Path | None,
    share: Share = ALONE,
    progress: Progress | None = None,
    threads: int = 16,
) -> list[Finding]:
    """Decode every picture once.

    Args:
        records: whose pictures.
        folder: what their paths are relative to.
        share: of several processes; each decodes its part.
        progress: called with 1 after each picture of this process.
        threads: pictures decoded at once by this process.

    Returns:
        For a bad picture a finding for every record that has it; for an odd one a finding for the first such record.

    Raises:
        UserError: no such folder.
    """
    users: dict[str, list[Record]] = {}
    for record in records:
        for name in dict.fromkeys(record.images):
            users.setdefault(name, []).append(record)
    if not users:
        return []
    root = picture_folder(folder, next(iter(users.values()))[0])
    mine = list(users)[share.rank :: share.processes]
    with warnings.catch_warnings():  # a huge picture is a finding of its own
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        looks = in_threads(lambda name: look(root / name), mine, progress, threads)
    seen = dict(share.gather([(name, found) for name, found in zip(mine, looks, strict=True) if found]))
    findings = []
    for name, whose in users.items():
        for kind, reason in seen.get(name, ()):
            findings += [_finding(r, kind, f"{root / name}: {reason}") for r in (whose if kind in BAD else whose[:1])]
    return findings


def look(path: Path) -> list[tuple[str, str]]:
    """Kinds and reasons of what is bad or odd about one picture; empty for most."""
    if not path.is_file():
        return [("picture missing", "is a folder" if path.is_dir() else "no such picture")]
    try:
        with Image.open(path) as image:
            found = _oddities(image)
            # A JPEG decoded at an eighth of its size shows a cut-off end just as well, in half the time.
            image.draft(None, (image.width // 8, image.height // 8))
            image.load()
        return found
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        return [("picture broken", "not a picture" if unknown else f"not a readable picture ({error})")]


def _oddities(image: Image.Image) -> list[tuple[str, str]]:
    frames = getattr(image, "n_frames", 1)
    turned = image.getexif().get(_ORIENTATION, 1)
    size = f"{image.width} x {image.height} pixels"
    tests = {
        "animated": (frames > 1, f"{frames} frames"),
        "16-bit": (image.mode.startswith(("I", "F")), f"mode {image.mode}"),
        "CMYK": (image.mode == "CMYK", "mode CMYK"),
        "transparent": (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info, f"mode {image.mode}"),
        "EXIF-rotated": (turned in range(2, 9), f"EXIF orientation {turned}"),
        "tiny": (min(image.size) < _TINY_SIDE, size),
        "huge": (image.width * image.height > _HUGE_PIXELS, size),
    }
    return [(kind, reason) for kind, (yes, reason) in tests.items() if yes]


class _Measuring(Dataset):
    """Each item is a :class:`Measured`: text is tokenized, no picture opened."""

    def __init__(self, samples: ConversationDataset, positions: Sequence[int]) -> None:
        self.samples = samples
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Measured:
        position = self.positions[index]
        record, vision = self.samples.records[position], self.samples.vision
        image_token = vision.image_token_id if vision is not None else -1
        try:
            whole = self.samples.encode_whole(position)
            kept = truncate(whole, self.samples.max_length, image_token, record.where)
        except UserError as error:
            return Measured(position, problem=_without_place(str(error), record.source, record.index))
        images = whole.input_ids.count(image_token)
        return Measured(position, len(whole.input_ids), images, kept.trained_tokens)


def measure(
    samples: ConversationDataset, share: Share = ALONE, workers: int = 0, progress: Progress | None = None
) -> list[Measured]:
    """Tokenize every record as training does.

    Args:
        samples: the records as training would encode them; their pictures are not opened.
        share: of several processes; each tokenizes its part.
        workers: further processes of this one, where there are many records.
        progress: called with the number of further records done by this process.

    Returns:
        One item a record, in their order.
    """
    positions = range(share.rank, len(samples), share.processes)
    loader: DataLoader[list[Measured]] = DataLoader(
        _Measuring(samples, positions),
        batch_size=256,
        num_workers=workers if len(positions) >= _WORTH_PROCESSES else 0,
        collate_fn=list,
    )
    mine: list[Measured] = []
    for batch in loader:
        mine += batch
        if progress is not None:
            progress(len(batch))
    return sorted(share.gather(mine), key=lambda one: one.position)


def odd_lengths(samples: ConversationDataset, measured: Sequence[Measured]) -> list[Finding]:
    """Findings about records that cannot be encoded, are cut off, or have nothing left to train on."""
    findings = []
    for one, record in zip(measured, samples.records, strict=True):
        over = one.tokens - samples.max_length
        if one.problem is not None:
            findings.append(_finding(record, "not encodable", one.problem))
        elif one.trained == 0:
            findings.append(_finding(record, "nothing trained", f"none of its {one.tokens:,} tokens is trained on"))
        elif over > 0:
            findings.append(_finding(record, "cut off", f"{one.tokens:,} tokens; the last {over:,} are lost"))
    return findings


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each kind, bad kinds first."""
    found = Counter(finding.kind for finding in findings)
    return {kind: found[kind] for kind in (*BAD, *ODD) if found[kind]}


def _finding(record: Record, kind: str, reason: str) -> Finding:
    return Finding(record.source, record.index, record.id, kind, reason)
