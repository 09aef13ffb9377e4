"""What a judge is asked about one answer, how its reply is read, and the official form of the grades."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_teamlora.evaluation.endpoint import Reply
from llava_teamlora.evaluation.types import Sample

Message = dict[str, Any]


@dataclass(frozen=True)
class Grade:
    """One reply of the judge that could be read.

    Attributes:
        scores: what it says, in the rubric's own scale.
        content: the judge's words.
        model: what the judge calls itself.
    """

    scores: tuple[float, ...]
    content: str
    model: str


class Rubric(ABC):
    """How one benchmark is graded.

    Attributes:
        prompt_name: ``official prompt``, ``own prompt``, or the file it came from.
        prompt: all of it, for its digest.
        max_tokens: longest reply.
        temperatures: of the first try and of each further one, after replies that could not be read.
        suffix: of the grade file.
        most_runs: how many gradings of one answer the grade file can hold; None for any number.
        zero: what the official tool writes where no reply could be read; None if it writes no valid grade.
    """

    prompt_name: str
    prompt: str
    max_tokens: int
    temperatures: tuple[float, ...]
    suffix: str = ".json"
    most_runs: int | None = None
    zero: tuple[float, ...] | None = None

    @abstractmethod
    def messages(self, sample: Sample, answer: str, again: bool) -> list[Message]:
        """What to ask; ``again`` after a reply that could not be read."""

    @abstractmethod
    def parse(self, reply: Reply) -> tuple[float, ...] | None:
        """The reply's scores, or None if it has none."""

    @abstractmethod
    def file(self, samples: Sequence[Sample], answers: Sequence[str], grades: Mapping[str, Sequence[Grade]]) -> str:
        """The official grade file's text.

        Args:
            samples: the graded ones, in order.
            answers: one each.
            grades: by sample key, one a run.
        """
