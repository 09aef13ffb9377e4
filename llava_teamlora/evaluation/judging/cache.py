"""Grades as they come in, one JSON line each, never rewritten: an interrupted grading asks nothing twice.

A grade is found again by the judge, all that the judge was asked (so by prompt, question and answer), and the run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from llava_teamlora.evaluation.answers import append_rows
from llava_teamlora.evaluation.judging.rubric import Grade
from llava_teamlora.evaluation.reading import decode, parse_json_lines, read_bytes, take


@dataclass(frozen=True)
class Place:
    """What a grade is kept under.

    Attributes:
        judge: ``Judge.identity``.
        asked_sha256: of the messages and of how a reply to them is made.
        key: the sample's.
        run: from 1.
    """

    judge: str
    asked_sha256: str
    key: str
    run: int


@dataclass(frozen=True)
class Kept:
    """A grade and when it was given (UTC)."""

    grade: Grade
    at: str


class Cache:
    """The grades in one file.

    Args:
        path: need not exist; a last line torn by a kill is cut off.

    Raises:
        UserError: it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[Place, Kept] = {}
        if not path.exists():
            return
        whole = read_bytes(path)
        sound = whole[: whole.rfind(b"\n") + 1]
        for where, row in parse_json_lines(decode(sound, path, "remove it to grade anew"), path):
            judge, asked, key = (take(row, name, str, where) for name in ("judge", "asked_sha256", "key"))
            place = Place(judge, asked, key, take(row, "run", int, where))
            scores = tuple(float(score) for score in take(row, "scores", list, where))
            grade = Grade(scores, take(row, "content", str, where), take(row, "model", str, where))
            self._kept[place] = Kept(grade, take(row, "at", str, where))
        if len(sound) < len(whole):
            os.truncate(path, len(sound))

    def __contains__(self, place: Place) -> bool:
        return place in self._kept

    def __getitem__(self, place: Place) -> Kept:
        return self._kept[place]

    def add(self, place: Place, grade: Grade) -> None:
        """Keep a grade, on disk at once.

        Raises:
            UserError: it cannot be written.
        """
        kept = Kept(grade, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        append_rows(self.path, [{**vars(place), **vars(grade), "at": kept.at}])
        self._kept[place] = kept
