"""What comes of a question: an answer, or a reason why there is none. And what answers questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.types import Sample

if TYPE_CHECKING:
    from llava_teamlora.generation import Decoding

_SHOWN = 3


@dataclass(frozen=True)
class Response:
    """One answer.

    Attributes:
        sample: what was asked.
        text: the answer.
        tokens: generated; 0 where none were, or a server does not count.
        cut: ended by its greatest length and not by itself.
        metadata: what else goes into the answers file.
    """

    sample: Sample
    text: str
    tokens: int = 0
    cut: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetAside:
    """One question that could not be answered, though others can.

    Attributes:
        key: the sample's.
        reason: for the user.
        tokens: of its prompt, where that is longer than the model can read; else 0.
    """

    key: str
    reason: str
    tokens: int = 0


class Answerer(Protocol):
    """What :func:`llava_teamlora.evaluation.runner.predict` needs of a model or a server."""

    whole_batches: bool
    """Whether a batch begun before is answered whole again: rounding may make an answer depend on its neighbours."""

    @property
    def name(self) -> str:
        """``model_id`` of its answers."""
        ...

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What it is."""
        ...

    def decoding(self, decoding: Decoding) -> Mapping[str, Any]:
        """How it comes to an answer, for the manifest."""
        ...

    def check(self, samples: Sequence[Sample]) -> None:
        """Refuse samples that it cannot answer.

        Raises:
            UserError: with the first of them.
        """
        ...

    def shown(self, sample: Sample) -> str | None:
        """The prompt as the model reads it; None where that is not known."""
        ...

    def answer(
        self, batches: Iterable[Sequence[Sample]], decoding: Decoding
    ) -> Iterator[Sequence[Response | SetAside]]:
        """Answers as they come, one of the two for each question.

        Raises:
            UserError: what every question would meet: memory does not suffice, a server cannot be reached.
        """
        ...


def unanswered(aside: Sequence[SetAside], asked: int) -> UserError:
    """What to say at the end of questions that were set aside.

    Args:
        aside: at least one.
        asked: questions in all.
    """
    shown = "; ".join(f"{one.key}: {one.reason}" for one in aside[:_SHOWN])
    more = f"; and {len(aside) - _SHOWN} more" if len(aside) > _SHOWN else ""
    long = [one for one in aside if one.tokens]
    remedies = ["the other answers are kept, and the same command asks only for what is missing"]
    remedies.append("evaluate score --partial scores a predictions.rank-N.jsonl as it is")
    if long:
        remedies.append(
            f"too long for the model: {len(long)} (the longest prompt has {max(one.tokens for one in long)} tokens), "
            "for which take one with more positions"
        )
    return UserError(
        f"{len(aside)} of {asked} questions could not be answered ({shown}{more}); nothing is scored before all are: "
        f"{'; '.join(remedies)}"
    )
