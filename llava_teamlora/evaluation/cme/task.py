"""What the eleven tasks of CME have in common: public files -> items -> questions to answer, or records to train on.

A task is one file beside this one. It says how a row of the public files becomes an :class:`Item`; evaluation asks each
item with the task's one fixed instruction, and ``llava-teamlora cme build`` makes training records of other splits with
paraphrases of it. Form of the text: the example that TeamLoRA's authors published (Lin-Tianwei/TeamLoRA at a39bc7d,
train_example.json); where a task's question needs no instruction, as in NQ, the question itself is it.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import not_empty
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.reading import data_folder, take
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Scores, Verdict


@dataclass(frozen=True)
class Item:
    """One row of a task, of whatever split, in words.

    Attributes:
        key: unique within its file; the row's own id where it has one.
        input: what stands below the instruction; the whole question where the task has no instruction.
        answers: accepted ones; the first is what training writes. Without any it is neither asked nor trained on.
        where: ``file, line n``, for messages.
        texts: the row's own texts without labels and frames, what a leak is looked for in.
        group: the sub-score it counts towards.
        cluster: items of one cluster are not independent.
        choices: the options of a multiple-choice question in the order of their letters.
        metadata: see ``Sample.metadata``.
    """

    key: str
    input: str
    answers: tuple[str, ...]
    where: str
    texts: tuple[str, ...]
    group: str = ""
    cluster: str = ""
    choices: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A public file (or folder of them) that items are read from.

    Attributes:
        paths: where it may lie in the task's folder, one for each edition that is read; the first that is there counts.
            ``*`` stands for any name.
        what: what it is, in words, with its number of rows.
        origin: where to get it.
        prefix: before its items' keys, unique in the task.
        group: of its items, where a row does not say.
    """

    paths: tuple[str, ...]
    what: str
    origin: str
    prefix: str
    group: str = ""

    def find(self, folder: Path) -> list[Path]:
        """The files of the first edition that is there; none if none is."""
        for pattern in self.paths:
            if found := sorted(folder.glob(pattern)):
                return found
        return []


class TextTask(Benchmark):
    """One task of CME.

    Attributes:
        instruction: what evaluation asks with; empty where the question is its own instruction.
        paraphrases: other ways to say the instruction, of our own; training draws from these and ``instruction``.
        folder: the task's own folder under the folder of benchmarks.
        tests: files with the items that are asked.
    """

    instruction: str = ""
    paraphrases: tuple[str, ...] = ()
    folder: str
    tests: tuple[Source, ...]

    @abstractmethod
    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Stream the rows of one public file, of any split and any edition that :class:`Source` names.

        Args:
            path: file or folder.
            group: of the items, where a row does not say.

        Raises:
            UserError: missing or broken.
        """

    def prompt(self, item: Item) -> str:
        """The question as evaluation asks it."""
        return f"{self.instruction}\n{item.input}" if self.instruction else item.input

    def candidates(self, item: Item) -> tuple[str, ...]:
        """See ``Sample.candidates``."""
        return ()

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """See ``Benchmark.load``. A key is the file's prefix and the row's key; ``#2`` where another row has it too.

        How many rows of a file have no answer is said on stderr; they are left out.
        """
        folder = data_folder(data_root, self.folder)
        samples: dict[str, Sample] = {}
        for source in self.tests:
            for path in self._files(source, folder):
                unanswered = 0
                for item in not_empty(self.items(path, source.group), path):
                    if not item.answers:
                        unanswered += 1
                        continue
                    sample = _told_apart(self._sample(f"{source.prefix}/{item.key}", item), samples, item, source)
                    samples[sample.key] = sample
                if unanswered:
                    print(f"{path}: {unanswered} questions have no answer, and are left out", file=sys.stderr)
        return list(samples.values())

    def _sample(self, key: str, item: Item) -> Sample:
        return Sample(
            key=key,
            question_id=item.key,
            prompt=self.prompt(item),
            targets=item.answers,
            group=item.group,
            cluster=item.cluster,
            choices=item.choices,
            candidates=self.candidates(item),
            metadata=item.metadata,
        )

    def _files(self, source: Source, folder: Path) -> list[Path]:
        if found := source.find(folder):
            return found
        others = f", nor {' or '.join(source.paths[1:])} there" if source.paths[1:] else ""
        raise UserError(f"{folder / source.paths[0]}: no such file{others} ({source.what}; from {source.origin})")

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """See ``Benchmark.needs``: of every file the edition that is there, else the first that is read."""
        folder = data_folder(data_root, self.folder)
        return [
            Need((source.find(folder) or [folder / source.paths[0]])[0], source.what, source.origin)
            for source in self.tests
        ]

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Means over all rows and by group."""
        return grouped_mean(samples, verdicts, self.groups)

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """``majority``: always the answer that most questions have."""
        if not samples:
            return {}
        common = Counter(sample.targets[0] for sample in samples).most_common(1)[0][0]
        return {"majority": Baseline(f"always {common!r}", {sample.key: common for sample in samples})}


def take_words(row: Mapping[str, Any], field: str, where: str) -> str:
    """A field's text without white space around it, of which something must be left.

    Raises:
        UserError: absent, no text, or empty.
    """
    if words := take(row, field, str, where).strip():
        return words
    raise UserError(f"{where}: {field!r} is empty; is the file whole, and of the edition that was meant?")


def _told_apart(sample: Sample, earlier: Mapping[str, Sample], item: Item, source: Source) -> Sample:
    """The sample, its key numbered where another row has it: shards of one file may each count from 0.

    Raises:
        UserError: it is that row once more.
    """
    key, count = sample.key, 1
    while key in earlier:
        if earlier[key].prompt == sample.prompt:
            raise UserError(f"{item.where}: {item.key!r} stands twice in {source.what}; get it anew")
        count += 1
        key = f"{sample.key}#{count}"
    return sample if count == 1 else replace(sample, key=key)
