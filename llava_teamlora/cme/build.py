"""Public sets -> one mix of CME-form records, in two passes.

First every set is surveyed: two digests a row (survey.py). These tell what is chosen: duplicates, caps and scale
(choosing.py). Then the chosen rows are read again, looked through for leaks (leaks.py) and written in parts (parts.py),
which become the mix, its list of leaks and its manifest. A set's text is never held whole. Each step's result is kept
until the mix is there: a build that was killed goes on where it was, and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.cme import survey as surveys
from llava_teamlora.cme.choosing import Choice, Chooser
from llava_teamlora.cme.leaks import Asked, LeakIndex
from llava_teamlora.cme.manifest import make_manifest, manifest_path, read_manifest
from llava_teamlora.cme.parts import Part, Tally, Writer, tally
from llava_teamlora.cme.plan import Input, Plan, sha256
from llava_teamlora.cme.progress import counting
from llava_teamlora.cme.work import AtWork, differences, wait_for_other, work_folder, work_path
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import beside, write_atomically

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Made:
    """What became of one set.

    Attributes:
        given: the set.
        rows: read, without bad ones.
        bad_rows: place and problem.
        sha256: of its files.
        choice: which rows were chosen.
        parts: with the records that were kept.
    """

    given: Input
    rows: int
    bad_rows: list[tuple[str, str]]
    sha256: dict[str, str]
    choice: Choice
    parts: list[Part]


def build(plan: Plan) -> tuple[dict[str, Any], bool]:
    """Build a mix, or go on with it. Where another build of it is at work, that is waited for.

    Returns:
        The manifest, and whether anything was made: False if the very mix was there already.

    Raises:
        UserError: there is another mix, a row is bad, a leak was found and leaks are refused, the files changed, or the
            disk is full. No mix is written then.
    """
    while True:
        try:
            return _build(plan)
        except AtWork as other:
            print(f"{other}; waiting for it to end", file=sys.stderr, flush=True)
            wait_for_other(plan.options.out)


def _build(plan: Plan) -> tuple[dict[str, Any], bool]:
    out, made_from = plan.options.out, plan.made_from()
    if out.suffix not in (".json", ".jsonl"):
        raise UserError(f"{out}: name it .jsonl (a record a line) or .json (a list)")
    if source := plan.holds(out):
        raise UserError(f"{out}: is read by this build ({source}); choose another --out")
    if (manifest := _finished(plan, made_from)) is not None:
        shutil.rmtree(work_path(out), ignore_errors=True)
        return manifest, False
    with work_folder(out, made_from, overwrite=plan.options.overwrite) as folder:
        made, index = _make(plan, folder)
        if plan.made_from() != made_from:
            raise UserError(f"files changed while {out} was built ({differences(made_from, plan.made_from())})")
        _finish(plan, made_from, made, index)
        shutil.rmtree(folder)
    return read_manifest(out), True


def _finished(plan: Plan, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of the mix that is there, if it is the one to make; None if none is in the way.

    Raises:
        UserError: another is, and it was not asked to replace it.
    """
    out = plan.options.out
    if not out.exists():
        return None
    manifest = read_manifest(out) if manifest_path(out).exists() else None
    if manifest is not None and manifest["made_from"] == made_from and sha256(out) == manifest["sha256"]:
        return manifest
    if plan.options.overwrite or _broke_off(out, made_from):
        return None
    if manifest is None:
        why = f"without its manifest ({manifest_path(out)})"
    else:
        why = differences(manifest["made_from"], made_from) or "with other content than its manifest says"
    raise UserError(f"{out}: is there already ({why}); choose another --out, or --overwrite replaces it")


def _broke_off(out: Path, made_from: dict[str, Any]) -> bool:
    """Whether a build of this very mix was killed between its last two files."""
    state = work_path(out) / "state.json"
    return state.exists() and read_json_object(state) == made_from


def _make(plan: Plan, folder: Path) -> tuple[list[Made], LeakIndex]:
    """Both passes over all sets."""
    options = plan.options
    for given in plan.inputs:
        _survey(plan, given, folder)
    with counting("indexing evaluation items") as told, _nothing_kept(folder):
        index = LeakIndex(_told(plan, told))
    chooser = Chooser(options.scale, dedup=options.dedup != "off")
    made = []
    for given in plan.inputs:
        found, facts = _survey(plan, given, folder)
        choice = chooser.choose(found.contents, found.priorities, given.cap)
        writer = Writer(given, choice.chosen, found.priorities, index, options, folder / "parts")
        with counting(f"writing {given.source.name}", len(choice.chosen)) as told:
            parts = writer.write(told)
        made.append(Made(given, len(choice.chosen), found.bad_rows, facts["sha256"], choice, parts))
    return made, index


@contextmanager
def _nothing_kept(folder: Path) -> Iterator[None]:
    """Remove what is finished if a file is refused: mended, or read with other arguments, it makes another build.

    A disk that cannot be read may be there again.
    """
    try:
        yield
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            shutil.rmtree(folder)
        raise


def _told(plan: Plan, told: Callable[[int], None]) -> Iterator[Asked]:
    for evaluation in plan.evaluations:
        for item in evaluation.items():
            told(1)
            yield item


def _survey(plan: Plan, given: Input, folder: Path) -> tuple[surveys.Survey, dict[str, Any]]:
    """Of one set: what was kept of it, or made now."""
    path = folder / "surveys" / f"{given.source.name}.u64"
    if (kept := surveys.load(path)) is not None:
        return kept
    options = plan.options
    with counting(f"reading {given.source.name}") as told, _nothing_kept(folder):
        found = surveys.survey(
            surveys.examples(given.source.form, given.files),
            name=given.source.name,
            seed=options.seed,
            dedup=options.dedup,
            refuse=options.on_bad_row == "refuse",
            told=told,
        )
    facts = {"sha256": {str(file): sha256(file) for file, _ in given.files}}
    surveys.save(found, path, facts)
    return found, facts


def _finish(plan: Plan, made_from: dict[str, Any], made: Sequence[Made], index: LeakIndex) -> None:
    """Parts -> list of leaks, list of bad rows, mix, and at the very last the manifest."""
    out = plan.options.out
    tallies = [tally(one.parts) for one in made]
    write_atomically(beside(out, ".leaks.jsonl"), _leaks(made))
    bad_rows = ((one.given.source.name, *bad) for one in made for bad in one.bad_rows)
    bad_lines = (_line(dict(zip(("source", "where", "problem"), bad, strict=True))) for bad in bad_rows)
    write_atomically(beside(out, ".bad_rows.jsonl"), bad_lines)
    _refuse(plan, tallies)
    if not sum(one.kept for one in tallies):
        read = sum(one.rows for one in made)
        raise UserError(f"{out}: no record is left of {read} rows; {beside(out, '.leaks.jsonl')} lists leaks")
    digest = hashlib.sha256()
    write_atomically(out, _digested(_mix(out, made), digest))
    manifest = make_manifest(plan, made_from, made, tallies, len(index), digest.hexdigest())
    write_atomically(manifest_path(out), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def _leaks(made: Sequence[Made]) -> Iterator[str]:
    for one in made:
        for part in one.parts:
            for leak in part.read_facts()["leaks"]:
                yield _line(leak)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _refuse(plan: Plan, tallies: Sequence[Tally]) -> None:
    """Raise UserError if leaks are refused and there are some."""
    found: Counter[str] = Counter()
    for one in tallies:
        found.update({reason: count for reason, count in one.leaks.items() if reason in plan.options.leak_reasons})
    if plan.options.leaks != "refuse" or not found:
        return
    shutil.rmtree(work_path(plan.options.out))  # its parts hold the leaks, and serve no other build
    counts = ", ".join(f"{count} by {reason}" for reason, count in sorted(found.items()))
    raise UserError(
        f"{found.total()} of the chosen rows leak ({counts}); no mix is written. "
        f"{beside(plan.options.out, '.leaks.jsonl')} lists them; --leaks drop leaves them out"
    )


def _mix(out: Path, made: Sequence[Made]) -> Iterator[bytes]:
    """The mix piece by piece: parts one after another or, of ``.json``, their lines as a list."""
    paths = [part.records for one in made for part in one.parts]
    if out.suffix == ".jsonl":
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
        return
    before = b"[\n"
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                yield before + line.rstrip(b"\n")
                before = b",\n"
    yield b"\n]\n"


def _digested(pieces: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece
