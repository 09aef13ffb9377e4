"""Talking with one of several models, for one person at one terminal.

In: what a person wants. Out: answers as they come. The conversation is a value (``conversation.py``); what this keeps
beside it is who answers, with which settings, and which experts took part in the last answer.
"""

from __future__ import annotations

import os.path
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.serving.conversation import Conversation, Picture, Reply, Settings

if TYPE_CHECKING:
    import torch

    from llava_teamlora.generation import Decoding, Generator, Token

KINDS = {"temperature": float, "top_p": float, "max_new_tokens": int, "num_beams": int, "seed": int}
"""The settings that ``/set`` changes, and what their values are."""


@dataclass(frozen=True)
class Watched:
    """Which experts took part in an answer.

    Attributes:
        tokens: the answer's, as text, what ended it included.
        participation: omega, mean over layers, ``[tokens, k]``.
    """

    tokens: tuple[str, ...]
    participation: torch.Tensor


class Talk:
    """One person's conversation, apart from any input and output.

    Args:
        generators: the models by name; the first one answers until another is chosen.
        decoding: how they answer.
        system: the system prompt; None is each model's own.

    Raises:
        UserError: a system prompt that the first model's template has no place for.
    """

    def __init__(self, generators: Mapping[str, Generator], decoding: Decoding, system: str | None = None) -> None:
        self.generators = generators
        self.decoding = decoding
        self.gains: tuple[float, ...] | None = None
        self.conversation = Conversation(system=system)
        self.watched: Watched | None = None
        self.choose(next(iter(generators)))

    def choose(self, name: str) -> None:
        """Have another model answer from now on; gains are taken away.

        Raises:
            UserError: no such model, or one that cannot go on with this conversation.
        """
        if name not in self.generators:
            raise UserError(f"{name}: no such model; there are {', '.join(self.generators)}"
                            f"{nearest(name, self.generators)}")  # fmt: skip
        generator = self.generators[name]
        _refuse(generator, self.conversation)
        self.model, self.generator, self.gains = name, generator, None

    def show(self, *paths: str | Path) -> list[str]:
        """Take pictures for the next question.

        Several may be shown before one question. Once they were asked about, the next one starts a new conversation,
        for most models know conversations about one picture.

        Returns:
            A line for each that says what was done.

        Raises:
            UserError: not a readable picture, or a text-only model; then none is taken.
        """
        from llava_teamlora.data.images import load_image

        if self.generator.vision is None:
            raise UserError(f"{self.generator.loaded.name}: is a text-only model and takes no pictures")
        pictures = [Picture(_name(path), load_image(os.path.expanduser(path))) for path in paths]
        anew = bool(self.conversation.pictures)
        if anew:
            self.clear()
        said = []
        for path, picture in zip(paths, pictures, strict=True):
            self.conversation = self.conversation.show(picture)
            count = len(self.conversation.waiting)
            also = f"; picture {count} for the next question" if count > 1 else ""
            also = "; a new conversation begins with it" if anew and count == 1 else also
            said.append(f"{path}: {picture.image.width} x {picture.image.height} px{also}")
        return said

    def clear(self) -> None:
        """Forget the conversation and its pictures; the system prompt stays."""
        self.conversation, self.watched = self.conversation.clear(), None

    def undo(self) -> str:
        """Take back what came last: a picture that was shown, or a question with its answer; says which.

        Raises:
            UserError: nothing came yet.
        """
        had = self.conversation
        if had.waiting:
            self.conversation = replace(had, waiting=had.waiting[:-1])
            return f"{had.waiting[-1].name} is taken back"
        without = had.undo()
        asked = had.exchanges[-1]
        self.conversation, self.watched = without.show(*asked.pictures), None
        return f"taken back: {asked.question}"

    def ask(self, question: str) -> Stream[str, None, None]:
        """Stream the answer to a question. What came of it joins the conversation, also when it is stopped midway.

        Raises:
            UserError: the prompt cannot be answered. After this and any other error the conversation is as before.
        """
        return self._answer(self.conversation.ask(question))

    def edit(self, question: str) -> Stream[str, None, None]:
        """Stream the answer to the last question in other words; see :meth:`ask`."""
        return self._answer(self.conversation.edit(-1, question))

    def again(self) -> Stream[str, None, None]:
        """Stream another answer to the last question; see :meth:`ask`. Where answers are sampled, the seed goes on."""
        asked = self.conversation.regenerate()
        had = self.conversation.exchanges[-1].reply
        if had is not None and self.decoding.temperature > 0 and had.settings.decoding.seed == self.decoding.seed:
            self.decoding = replace(self.decoding, seed=self.decoding.seed + 1)
        return self._answer(asked)

    def set(self, name: str, value: str) -> None:
        """Change one of the settings that answers are made with.

        Raises:
            UserError: no such setting, or no such value.
        """
        if name not in KINDS:
            raise UserError(f"{name}: no such setting; there are {', '.join(KINDS)}{nearest(name, KINDS)}")
        try:
            number = KINDS[name](value)
        except ValueError as error:
            kind = "a whole number" if KINDS[name] is int else "a number"
            raise UserError(f"{name} must be {kind}, not {value!r}") from error
        self.decoding = replace(self.decoding, **{name: number})

    def steer(self, gains: tuple[float, ...] | None) -> None:
        """Weight the experts by hand in the answers from now on; None leaves them alone.

        Raises:
            UserError: not one gain for each expert, or a model without experts, or one in a cache of fixed size.
        """
        if gains is not None and self.generator.fixed is not None:
            raise UserError("/gains is for a growing cache; start without --static_cache and --compile")
        with _steered(self.generator, gains):
            self.gains = gains

    def load(self, conversation: Conversation) -> None:
        """Go on with another conversation.

        Raises:
            UserError: the model that answers now cannot.
        """
        _refuse(self.generator, conversation)
        self.conversation, self.watched = conversation, None

    def _answer(self, asked: Conversation) -> Stream[str, None, None]:
        from llava_teamlora.generation import PromptTooLong

        settings = Settings(self.model, self.generator.loaded.template.name, self.decoding, self.gains)
        pieces: list[str] = []
        tokens: list[Token] = []
        ended: Literal["stop", "length", "stopped"] = "stopped"
        try:
            with _steered(self.generator, self.gains):
                for piece, token, end in self._pieces(asked):
                    ended = end or ended
                    if token is not None:
                        tokens.append(token)
                    if piece:
                        pieces.append(piece)
                        yield piece
        except PromptTooLong as error:
            raise UserError(f"{error}; shorten the question, or begin anew with /clear") from error
        except Exception:
            raise
        except BaseException:  # stopped by the reader, not failed
            if pieces:
                self._remember(asked, Reply("".join(pieces), "stopped", settings), tokens)
            raise
        self._remember(asked, Reply("".join(pieces), ended, settings), tokens)

    def _pieces(self, asked: Conversation) -> Iterator[tuple[str, Token | None, Literal["stop", "length"] | None]]:
        from llava_teamlora.generation import Ask

        query = asked.query()
        if self.decoding.num_beams > 1:  # which come all at once
            answer = self.generator.generate([query], self.decoding)[0]
            yield answer.text, None, answer.finish
            return
        for piece, token in self.generator.follow(Ask(query, self.decoding, watch=self.generator.fixed is None)):
            yield piece, token, token.end

    def _remember(self, asked: Conversation, reply: Reply, tokens: list[Token]) -> None:
        import torch

        from llava_teamlora.generation.spoken import token_text

        self.conversation = asked.answered(reply)
        seen = [(token.id, token.participation) for token in tokens if token.participation is not None]
        if not seen:
            self.watched = None
            return
        texts = tuple(token_text(self.generator.tokenizer, token) for token, _ in seen)
        self.watched = Watched(texts, torch.stack([omega.mean(0) for _, omega in seen]))


def _name(path: str | Path) -> str:
    """What a picture is called: its file's name, bytes of it that are no text shown as such."""
    return Path(path).name.encode(errors="replace").decode()


def _refuse(generator: Generator, conversation: Conversation) -> None:
    """Raise UserError if the model cannot go on with the conversation, for its pictures or its system prompt."""
    if generator.vision is None and (conversation.pictures or conversation.waiting):
        raise UserError(f"{generator.loaded.name}: is a text-only model; /clear the conversation, it has pictures")
    if conversation.system is not None:
        generator.loaded.template.with_system(conversation.system)


@contextmanager
def _steered(generator: Generator, gains: tuple[float, ...] | None) -> Iterator[None]:
    """Weight the experts inside the context.

    Raises:
        UserError: gains that do not fit the model.
    """
    from llava_teamlora.tuners.routed import steer_experts

    if gains is None:
        yield
        return
    try:
        steer_experts(generator.base, gains)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        yield
    finally:
        steer_experts(generator.base, None)
