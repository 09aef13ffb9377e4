"""What a set of the mix is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llava_teamlora.cme.forms import Form
from llava_teamlora.evaluation.cme.task import Source

DATA_ROOT = Path("playground/data/cme")
"""Where training files lie, each set's in a folder of its name; ``--data_root`` names another."""


@dataclass(frozen=True)
class MixSource:
    """One set of the mix.

    Attributes:
        name: on the command line, of its folder, and the task of its records.
        files: its files; all are read.
        form: how a row becomes an example.
        rows: of the editions named, as published.
        cap: rows that are taken by default.
        licence: in words; a build copies none of it, what is done with the mix is its maker's to answer for.
        basis: why it is in the mix.
    """

    name: str
    files: tuple[Source, ...]
    form: Form
    rows: int
    cap: int
    licence: str
    basis: str

    def find(self, data_root: Path) -> tuple[list[tuple[Path, str]], list[Source]]:
        """The files that are there, each with its group; and the sources of which none is."""
        folder = data_root / self.name
        found = [(path, source.group) for source in self.files for path in source.find(folder)]
        return found, [source for source in self.files if not source.find(folder)]


def train(paths: Iterable[str], what: str, origin: str, group: str = "") -> Source:
    """Training files, the first edition of ``paths`` that is there."""
    return Source(tuple(paths), what, origin, "train", group)
