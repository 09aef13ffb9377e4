"""Answers in OpenAI's form: one completion, or the chunks of a stream."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llava_teamlora.generation.routing import routed_text_layers
from llava_teamlora.serving.api.spelling import spelled
from llava_teamlora.serving.tickets import Done, Piece, TokenSaid, Usage

if TYPE_CHECKING:
    import torch

    from llava_teamlora.serving.api.schema import ChatRequest
    from llava_teamlora.serving.family import Member

_LEAST = -9999.0  # OpenAI's log-probability of what cannot be, for which JSON has no number
END = b"data: [DONE]\n\n"


@dataclass
class Written:
    """One answer as it grows."""

    tokens: list[TokenSaid] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    usage: Usage | None = None

    def take(self, event: Piece | Done) -> None:
        """Add what an event brings."""
        if isinstance(event, Piece):
            self.tokens += event.tokens
            self.text += event.text
        else:
            self.text, self.finish, self.usage = event.answer.text, event.answer.finish, event.usage


class Wire:
    """Writes the answers to one request.

    Args:
        asked: the request.
        member: who answers.
    """

    def __init__(self, asked: ChatRequest, member: Member) -> None:
        self.asked, self.member = asked, member
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.with_usage = asked.stream_options is not None and asked.stream_options.include_usage

    def completion(self, answers: Sequence[Written]) -> dict[str, Any]:
        """The whole of it, not streamed."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": answer.finish,
                **self._participation(answer.tokens, first=True),
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": _usage(answers)}

    def begin(self, index: int) -> bytes:
        """The chunk that says who speaks."""
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, index: int, piece: Piece, first: bool) -> bytes | None:
        """A chunk of text; None where there is nothing to tell yet."""
        told = self.asked.logprobs or self.asked.participation
        if not piece.text and not (told and piece.tokens):
            return None
        return self._chunk(
            index,
            {"content": piece.text},
            logprobs=self._logprobs(piece.tokens),
            **self._participation(piece.tokens, first),
        )

    def finish(self, index: int, done: Done) -> bytes:
        """The chunk that says why an answer ends."""
        return self._chunk(index, {}, finish=done.answer.finish)

    def usage(self, answers: Sequence[Written]) -> bytes:
        """The chunk with the numbers of tokens, where it is wanted."""
        if not self.with_usage:
            return b""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(answers)})

    def _chunk(
        self, index: int, delta: dict[str, Any], *, logprobs: Any = None, finish: str | None = None, **more: Any
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish, **more}
        usage = {"usage": None} if self.with_usage else {}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **usage})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.member.id,
            "system_fingerprint": fingerprint(self.member),
        }

    def _logprobs(self, tokens: Sequence[TokenSaid]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        content = []
        for token in tokens:
            assert token.likelihood is not None  # it was asked for
            likely = token.likelihood
            content.append(
                {
                    **self._token(token.id, likely.log_probability),
                    "top_logprobs": [self._token(other, value) for other, value in likely.alternatives],
                }
            )
        return {"content": content, "refusal": None}

    def _token(self, token: int, log_probability: float) -> dict[str, Any]:
        text, raw = spelled(self.member.generator.tokenizer, token)
        return {"token": text, "logprob": max(log_probability, _LEAST), "bytes": raw}

    def _participation(self, tokens: Sequence[TokenSaid], first: bool) -> dict[str, Any]:
        """What the experts did, where it is wanted; what the numbers stand for is told once."""
        if not self.asked.participation:
            return {}
        omega = [_rounded(token.participation) for token in tokens if token.participation is not None]
        if not first:
            return {"participation": {"omega": omega}}
        layers = [name for name, _ in routed_text_layers(self.member.generator.base)]
        return {"participation": {"layers": layers, "experts": self.member.experts, "omega": omega}}


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n\n"


def fingerprint(member: Member) -> str:
    """Of the weights that answer and the form they are computed in."""
    manifest = member.loaded.manifest
    parts = [str(manifest.get(name)) for name in ("base_fingerprint", "adapter_sha256", "version", "dtype")]
    return "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _usage(answers: Sequence[Written]) -> dict[str, int]:
    """The prompt counts once, however many answers it has."""
    used = [answer.usage for answer in answers if answer.usage is not None]
    prompt = max((usage.prompt_tokens for usage in used), default=0)
    written = sum(usage.completion_tokens for usage in used)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _rounded(participation: torch.Tensor) -> list[list[float]]:
    return participation.double().round(decimals=4).tolist()  # [layers, k]
