"""A chat completion's request -> what the engine is asked."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, PromptTooLong, Query
from llava_teamlora.generation.query import question
from llava_teamlora.serving.api.problems import Problem
from llava_teamlora.serving.api.schema import ChatRequest, Message
from llava_teamlora.serving.tickets import Request

if TYPE_CHECKING:
    import torch

    from llava_teamlora.generation import Generator
    from llava_teamlora.serving.api.settings import ApiSettings
    from llava_teamlora.serving.family import Member

_CHARACTERS_A_POSITION = 32  # no text has so few tokens for its length; a longer one need not even be tokenized


def as_requests(asked: ChatRequest, member: Member, settings: ApiSettings) -> list[Request]:
    """One request for each of the ``n`` answers; they share the pictures' computation.

    Args:
        asked: checked.
        member: the model that is asked.
        settings: what the endpoint allows.

    Raises:
        Problem: more than it allows, or messages that are no conversation.
        UserError: a picture that cannot be had.
    """
    if asked.n > settings.max_answers:
        raise Problem(400, f"n: at most {settings.max_answers} answers to a request", "n")
    longest = asked.longest or settings.max_answer_tokens
    if longest > settings.max_answer_tokens:
        name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
        raise Problem(400, f"{name}: {longest} is more than the {settings.max_answer_tokens} of this server", name)
    if asked.expert_gains is not None and len(asked.expert_gains) != member.experts:
        have = f"has {member.experts} experts" if member.experts else "has no routed experts"
        raise Problem(400, f"expert_gains: {len(asked.expert_gains)} gains, but {member.id} {have}", "expert_gains")
    if asked.participation and not member.experts:
        raise Problem(400, f"participation: {member.id} has no routed experts", "participation")
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    request = Request(
        model=member.id,
        query=_query(asked.messages, member.generator, settings),
        decoding=Decoding(longest, asked.temperature, asked.top_p, seed=seed),
        stops=tuple(asked.stop),
        alternatives=asked.alternatives,
        watch=asked.participation,
        gains=None if asked.expert_gains is None else tuple(asked.expert_gains),
    )
    # The first answer of several is the one that would be given alone.
    return [replace(request, decoding=replace(request.decoding, seed=seed + i)) for i in range(asked.n)]


def _query(messages: list[Message], generator: Generator, settings: ApiSettings) -> Query:
    if len(messages) > settings.max_messages:
        raise Problem(400, f"messages: at most {settings.max_messages} are taken", "messages")
    _check_length(messages, generator)
    system = _text(messages[0], 0) if messages[0].role in ("system", "developer") else None
    first = 0 if system is None else 1
    _check_order(messages, first)
    images = _pictures(messages, generator, settings)
    turns: list[Turn] = []
    for at, message in enumerate(messages[first:], first):
        text = _text(message, at)
        shown = sum(part.type == "image_url" for part in message.content)
        turns.append(question(text, shown) if message.role == "user" else Turn("gpt", text))
    return Query(tuple(turns), images, system)


def _check_length(messages: list[Message], generator: Generator) -> None:
    letters = sum(len(part.text or "") for message in messages for part in message.content)
    if letters > _CHARACTERS_A_POSITION * generator.positions:
        raise PromptTooLong(
            f"the messages have {letters} characters, far more than the {generator.positions} positions of the model",
            letters,
        )


def _check_order(messages: list[Message], first: int) -> None:
    """After a system message: user, assistant, user, …, user."""
    for at, message in enumerate(messages[first:]):
        wanted = ("user", "assistant")[at % 2]
        if message.role != wanted:
            where = f"messages[{first + at}].role"
            raise Problem(
                400,
                f"{where}: is {message.role!r} where {wanted!r} is due; after one system message at most, messages "
                "are user, assistant, user, ...",
                where,
            )
    if len(messages) == first or messages[-1].role != "user":
        raise Problem(400, "messages: the last one must be the user's, who is answered", "messages")


def _text(message: Message, at: int) -> str:
    """The texts of a message, a line each."""
    if message.role != "user" and any(part.type != "text" for part in message.content):
        where = f"messages[{at}].content"
        raise Problem(400, f"{where}: only a user's message can hold pictures", where)
    texts = [part.text for part in message.content if part.text is not None]
    if any(IMAGE_TOKEN in text for text in texts):
        where = f"messages[{at}].content"
        raise Problem(
            400, f"{where}: the text holds {IMAGE_TOKEN}, which marks a picture's place; send the picture itself", where
        )
    return "\n".join(texts)


def _pictures(messages: list[Message], generator: Generator, settings: ApiSettings) -> tuple[torch.Tensor, ...]:
    """The pictures in their order, already as small as the model sees them."""
    places = [
        (f"messages[{i}].content[{j}].image_url", part.image_url.url)
        for i, message in enumerate(messages)
        for j, part in enumerate(message.content)
        if part.image_url is not None
    ]
    if len(places) > settings.max_pictures:
        raise Problem(400, f"messages: {len(places)} pictures, at most {settings.max_pictures} are taken", "messages")
    if places and generator.vision is None:
        raise Problem(400, f"{places[0][0]}: {generator.loaded.name} is a text-only model", places[0][0])
    found = []
    for where, address in places:
        try:
            found.append(generator.pixels(settings.pictures.open(address, where)))
        except UserError as error:
            raise Problem(400, str(error), where, "invalid_image") from error
    return tuple(found)
