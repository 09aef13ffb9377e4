"""The few types that benchmarks, runner, scoring and report pass around. Imports no torch."""

from __future__ import annotations

import base64
import binascii
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class EncodedPicture:
    """A picture that stands inside a data file, as MMBench's do.

    Attributes:
        where: ``file, line n``, for messages.
        base64: the picture file's bytes, encoded.
    """

    where: str
    base64: str = field(repr=False)

    def content(self) -> bytes:
        """The picture file's bytes.

        Raises:
            UserError: not base64.
        """
        try:
            return base64.b64decode(self.base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{self.where}: its picture is not base64 ({error})") from error

    @cached_property
    def digest(self) -> str:
        """Of the encoded bytes: the same picture has the same."""
        return hashlib.sha256(self.base64.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"base64:{self.digest}"


Picture = Path | EncodedPicture


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark.

    Attributes:
        key: unique in the benchmark; what predictions are joined on.
        question_id: the benchmark's own id, as LLaVA's answers files carry it; need not be unique.
        prompt: the human turn's text, without any image marker.
        targets: accepted answers, as ``Benchmark.parse`` would give them.
        image: the picture; None for a text-only question.
        group: the sub-score it counts towards.
        cluster: samples of one cluster (a picture) are not independent; standard errors know it.
        choices: the options of a multiple-choice question, in the order of their letters A, B, …; else empty.
        candidates: the few answers that there are, where a model was tuned to write just one of them.
        llava_prompt: the prompt as LLaVA's answers files record it, where that is not ``prompt``.
        metadata: anything else a benchmark wants to keep; plain JSON, it goes into answers and row logs.
    """

    key: str
    question_id: int | str
    prompt: str
    targets: tuple[str, ...]
    image: Picture | None = None
    group: str = ""
    cluster: str = ""
    choices: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    llava_prompt: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer, as it stands in an answers file.

    Attributes:
        key: the sample's.
        text: what the model said.
        where: ``file, line n``, for messages.
        asked: to what, where it was not the sample's prompt; else None.
    """

    key: str
    text: str
    where: str
    asked: str | None = None


@dataclass(frozen=True)
class Verdict:
    """One scored row.

    Attributes:
        parsed: the answer as it was understood.
        score: 0 to 1.
        extra: by further measures, 0 to 1 each; the same names on every row of a benchmark.
    """

    parsed: str
    score: float
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A mean with its uncertainty.

    Attributes:
        value: 0 to 1, a share of ``maximum``.
        stderr: standard error of ``value``, clustered; None when it cannot be known (fewer than two clusters).
        n: rows.
        maximum: what the official tool calls a perfect score: 100 for percent, 2000 for MME's perception. Tables show
            ``value * maximum``.
    """

    value: float
    stderr: float | None
    n: int
    maximum: float = 100.0


@dataclass(frozen=True)
class Scores:
    """All of one set of answers: in total, per group in the benchmark's order, and by further measures."""

    total: Score
    groups: dict[str, Score]
    extra: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """Answers that need no model, and how they are made."""

    how: str
    answers: dict[str, str]


@dataclass(frozen=True)
class Need:
    """A file or folder that a benchmark reads.

    Attributes:
        path: where it must lie.
        what: what it is, in words.
        source: where to get it.
        made_from: the files that ``llava-teamlora evaluate build`` makes it from; empty where it cannot be made.
        pictures: a folder of pictures: needed to predict, not to score.
    """

    path: Path
    what: str
    source: str
    made_from: tuple[Need, ...] = ()
    pictures: bool = False

    @property
    def built(self) -> bool:
        """Whether ``llava-teamlora evaluate build`` makes it."""
        return bool(self.made_from)


class Benchmark(ABC):
    """One benchmark is one file: load -> prompt -> parse -> score -> export. A new one is also one line in BENCHMARKS.

    Attributes:
        name: as on the command line.
        summary: one line for ``evaluate list``.
        metric: what the total is.
        version: raised whenever a score could change.
        max_new_tokens: default length of an answer.
        groups: order of the sub-scores.
        headline: groups and further measures that a terminal's table shows beside the total; None for all.
        server: where the truth is not public: what to do with the export; empty where it can be scored here.
        judged: a judge model grades the answers; see :meth:`with_grades`.
        graded: keys of the samples that :meth:`with_grades` has grades of; None where no judge is asked.
    """

    name: str
    summary: str
    metric: str
    version: int
    max_new_tokens: int
    groups: tuple[str, ...]
    headline: tuple[str, ...] | None = None
    server: str = ""
    judged: bool = False
    graded: frozenset[str] | None = None

    @abstractmethod
    def load(self, data_root: Path | None = None) -> list[Sample]:
        """All samples, in the benchmark's order. Whether the pictures are there is not looked at.

        Args:
            data_root: folder that holds the benchmark's own folder, as LLaVA's ``playground/data/eval``; None takes the
                benchmark's own default.

        Raises:
            UserError: a file is missing or broken, or files are of different editions.
        """

    @abstractmethod
    def judge(self, sample: Sample, text: str) -> Verdict:
        """Parse and score one answer."""

    @abstractmethod
    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Total and sub-scores; of what is there, where only a part of the benchmark was answered."""

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Answers per sample key that no model is needed for; empty where there is none."""
        return {}

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """The files it reads, for ``evaluate check``."""
        return []

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question files, made from the official ones: path -> rows, for ``evaluate build``.

        Raises:
            UserError: an official file is missing or broken.
        """
        return {}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """Write what the official server or tool takes.

        Args:
            samples: all of the benchmark's, in its order.
            texts: one answer a sample.
            out: folder.
            data_root: see :meth:`load`.

        Returns:
            The files written.

        Raises:
            UserError: there is no such format, or it cannot be written.
        """
        raise UserError(f"{self.name}: no official tool takes a file of answers; score it here with evaluate score")

    def with_grades(self, grades: Path) -> Benchmark:
        """The same benchmark, scored by a judge's grades.

        Raises:
            UserError: no judge grades this benchmark, or the file is broken.
        """
        raise UserError(f"{self.name}: is scored without a judge; drop --grades")
