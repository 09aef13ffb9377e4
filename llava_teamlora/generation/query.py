"""What is asked, how it is decoded, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Query:
    """A conversation that waits for an answer.

    Attributes:
        turns: human, gpt, human, …, ending in a human turn.
        images: RGB pictures, or their pixels as ``Generator.pixels`` makes them, in the order of their ``IMAGE_TOKEN``
            in the human's turns. Queries that hold the very same object share its computation.
        system: the system prompt; None is the template's own.

    Raises:
        UserError: not as many ``IMAGE_TOKEN`` as pictures, or one in the model's turns or the system prompt.
    """

    turns: tuple[Turn, ...]
    images: tuple[Image.Image | torch.Tensor, ...] = ()
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.turns or self.turns[-1].role != "human":
            raise ValueError("a query ends in a human turn")
        if any(turn.role == "gpt" and IMAGE_TOKEN in turn.text for turn in self.turns):
            raise UserError(f"{IMAGE_TOKEN} stands in an answer; it belongs in a question")
        if self.system is not None and IMAGE_TOKEN in self.system:
            raise UserError(f"{IMAGE_TOKEN} stands in the system prompt; it belongs in a question")
        places = sum(turn.text.count(IMAGE_TOKEN) for turn in self.turns)
        if places != len(self.images):
            raise UserError(f"the questions hold {places} x {IMAGE_TOKEN} for {len(self.images)} picture(s)")

    @staticmethod
    def ask(text: str, *images: Image.Image | torch.Tensor) -> Query:
        """One question, with the pictures it is about before it.

        Raises:
            UserError: see :func:`question`.
        """
        return Query((question(text, len(images)),), images)


def question(text: str, images: int = 0) -> Turn:
    """A typed question as a turn, with the places of its pictures in front, as LLaVA puts them.

    Args:
        text: what was typed.
        images: number of pictures.

    Raises:
        UserError: the text holds ``IMAGE_TOKEN``: it would become a picture's place.
    """
    if IMAGE_TOKEN in text:
        raise UserError(f"the text holds {IMAGE_TOKEN}, which marks a picture's place; leave it out")
    return Turn("human", f"{IMAGE_TOKEN}\n" * images + text)


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: longest answer in tokens, at least 1. The model's last position ends an answer too.
        temperature: 0 takes the likeliest token (greedy); above 0 samples.
        top_p: sample from the likeliest tokens that together have this probability, in (0, 1].
        num_beams: above 1 searches with beams (greedy only).
        seed: of sampling. A row's draws depend on this and its prompt, never on the batch around it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens {self.max_new_tokens} must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature {self.temperature} must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p {self.top_p} must be above 0 and at most 1")
        if self.num_beams < 1:
            raise UserError(f"--num_beams {self.num_beams} must be at least 1")
        if self.num_beams > 1 and self.temperature > 0:
            raise UserError(f"--num_beams {self.num_beams} is for --temperature 0; beams do not sample")


@dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes:
        text: special tokens dropped, stripped.
        token_ids: as generated, without the end token.
        finish: ``stop`` at the end token, ``length`` at ``max_new_tokens`` or the model's last position.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class LogLikelihood:
    """How likely a model finds a given answer.

    Attributes:
        total: natural logarithm of the probability of all of the answer's tokens, what ends it included.
        tokens: how many these are.
        greedy: whether each of them is the likeliest, so that greedy decoding writes them.
    """

    total: float
    tokens: int
    greedy: bool

    @property
    def per_token(self) -> float:
        """The mean: what long answers are not punished by."""
        return self.total / self.tokens
