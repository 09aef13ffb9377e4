"""IMDB: 25,000 film reviews of the test split -> positive or negative.

Data: ``aclImdb/test/{pos,neg}/<id>_<rating>.txt`` of the original archive, where ``urls_pos.txt`` and ``urls_neg.txt``
name the film of each id, so that reviews of one film make one cluster; or the hub's parquet (text, label 0 negative, 1
positive), which does not name the film. Reviews stay as they are, ``<br />`` and all, as in the authors' records.
Metric: accuracy, as the size of Table 2's figures tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.labels import LabelTask
from llava_teamlora.evaluation.cme.task import Item, Source
from llava_teamlora.evaluation.reading import read_text, take

_FOLDERS = {"neg": "negative", "pos": "positive"}


class Imdb(LabelTask):
    """See the module's text."""

    name = folder = "imdb"
    summary = "IMDB's 25,000 test reviews: positive or negative; text only"
    version = 1
    labels = ("negative", "positive")
    spellings = {"neg": "negative", "pos": "positive"}
    instruction = "Is the sentiment of this film review positive or negative?"
    paraphrases = (
        "Read this review and say whether its author's opinion is positive or negative.",
        "Tell whether the review below speaks well of the film; answer positive or negative.",
        "What does the writer of this passage feel about the film, positive or negative?",
        "Decide between positive and negative for the opinion in the following text.",
        "Label the sentiment of the passage as positive or negative.",
        "Did the person who wrote this like what they saw? Answer positive if so, negative if not.",
        "Give the overall judgement of the following review in one word: positive or negative.",
    )
    tests = (
        Source(
            ("aclImdb/test", "plain_text/test-*.parquet", "data/test-*.parquet", "test*.parquet"),
            "the test split, 25,000 reviews",
            "https://ai.stanford.edu/~amaas/data/sentiment (aclImdb_v1.tar.gz), or stanfordnlp/imdb on the hub",
            "test",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of a split's folder of the archive, both labels in turn by id; or of a parquet file."""
        if path.suffix:
            for index, (where, row) in enumerate(rows(path)):
                yield self._item(str(index), take(row, "text", str, where), self.label(row, "label", where), where)
            return
        films = {name: _films(path / f"urls_{name}.txt") for name in _FOLDERS}
        found = sorted(_reviews(path))
        for name, listed in films.items():
            there = sum(1 for _, label, _ in found if label == name)
            if there < len(listed):
                raise UserError(
                    f"{path / name}: holds {there} reviews, but {path / f'urls_{name}.txt'} lists {len(listed)}; "
                    "unpack the archive whole (of a set that is smaller on purpose, move urls_*.txt elsewhere)"
                )
        for number, name, file in found:
            film = _film(films[name], number, path / f"urls_{name}.txt")
            yield self._item(f"{name}/{file.stem}", read_text(file), _FOLDERS[name], str(file), film)

    def _item(self, key: str, text: str, label: str, where: str, film: str = "") -> Item:
        review = text.strip()
        return Item(key, review, (label,), where, (review,), cluster=film)


def _reviews(split: Path) -> Iterator[tuple[int, str, Path]]:
    for name in _FOLDERS:
        folder = split / name
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; unpack aclImdb_v1.tar.gz whole")
        for file in folder.glob("*.txt"):
            number = file.stem.partition("_")[0]
            if not number.isdecimal():
                raise UserError(f"{file}: reviews are named <id>_<rating>.txt; move other files elsewhere")
            yield int(number), name, file


def _films(path: Path) -> list[str]:
    """The address of each id's film; none where the list is not there."""
    return read_text(path).split() if path.is_file() else []


def _film(films: list[str], number: int, path: Path) -> str:
    if films and number >= len(films):
        raise UserError(f"{path}: has {len(films)} lines, but there is a review of id {number}; unpack it anew")
    return films[number] if films else ""
