"""The body of a chat completion's request -> checked fields.

Each field means what OpenAI's reference says. One that is not supported is refused by its name, unless its value asks
for nothing (null, an empty list, a penalty of 0); nothing is left out in silence.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llava_teamlora.serving.api.problems import Problem

_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Fields of OpenAI's that this server has no use for, and the values with which they change nothing."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Strict(BaseModel):
    # No number is read out of a text, and no unknown field passed over.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ImageUrl(_Strict):
    """A picture's address. ``detail`` is a hint of what it may cost; here every picture is read in one way."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class Part(_Strict):
    """A piece of a message: a text or a picture."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def _whole(self) -> Part:
        other = "image_url" if self.type == "text" else "text"
        if getattr(self, self.type) is None or getattr(self, other) is not None:
            raise ValueError(f"A part of the type {self.type} has the field {self.type} and not {other}")
        return self


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _said(message: Any) -> Any:
    """A message without fields that say nothing: clients send answers back as they got them."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if name == "content" or value not in (None, [])}


class Message(_Strict):
    """What one of them said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts), Field(min_length=1)]


class StreamOptions(_Strict):
    """What a stream tells beside the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class ChatRequest(_Strict):
    """The fields that are supported. ``expert_gains`` and ``participation`` are this server's own."""

    model: str
    messages: list[Annotated[Message, BeforeValidator(_said)]] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1)
    stop: Annotated[list[_Stop], BeforeValidator(_as_list)] = Field([], max_length=4)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    user: str | None = None
    expert_gains: list[Annotated[float, Field(ge=0, le=100)]] | None = Field(None, min_length=1)
    participation: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for stream: true")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens disagree; send the latter alone")
        return self

    @property
    def longest(self) -> int | None:
        """Tokens of an answer, as asked for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """For ``generation.Ask``."""
        return (self.top_logprobs or 0) if self.logprobs else None


def read_request(body: bytes) -> ChatRequest:
    """Parse and check a request's body.

    Raises:
        Problem: with the field it is about.
    """
    fields = _read_json(body)
    if not isinstance(fields, dict):
        raise Problem(400, f"the body must be a JSON object, found {_kind(fields)}")
    fields = {name: value for name, value in fields.items() if value is not None and not _asks_nothing(name, value)}
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _as_problem(error) from error


def _asks_nothing(name: str, value: Any) -> bool:
    return name in _NOTHING_ASKED and value in _NOTHING_ASKED[name]


def _read_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):  # half of a pair can be written in JSON, but is no text
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        return found
    except RecursionError as error:
        raise Problem(400, "the body is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise Problem(400, "the body holds half of a surrogate pair, which is no text") from error
    except ValueError as error:  # a JSONDecodeError, or a number of thousands of digits
        raise Problem(400, f"the body is not JSON: {str(error)[:200]}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _as_problem(error: ValidationError) -> Problem:
    """The first thing wrong, in the words of whoever sent it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")[:200]
    if first["type"] == "extra_forbidden":
        return Problem(400, f"{where}: is not supported by this server; leave it out", where, "unsupported_parameter")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    said = first["msg"].removeprefix("Value error, ")
    return Problem(400, f"{where}: {said}" if where else said, where or None, code)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
    return kinds.get(type(value), "null")
