"""A model behind an OpenAI-compatible address: vLLM, llama.cpp, Ollama, a hosted service.

In: messages. Out: one :class:`Reply` each. The ``openai`` client asks again, waiting longer each time, after 408, 409,
429, 5xx, a broken connection or a time-out; whatever fails for good is a UserError with the server's own words.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_text

_KEY_VARIABLE = "OPENAI_API_KEY"
_SHOWN = 500  # characters of a server's own words
# So many, and no answer between them, are the server's failures and not the questions'. A server that hangs costs
# minutes a question; a refusal comes at once, and a run that goes on may have all that were refused before in front of
# it. A filter's verdict is the same on all of a picture's questions, so pictures are what counts; but a few hundred
# pictures may have thousands of questions (GQA: 398, and 32 each), which are not all asked either.
_TROUBLES_IN_A_ROW, _PICTURES_REFUSED_IN_A_ROW, _REFUSALS_IN_A_ROW = 20, 500, 2000


class ServerError(UserError):
    """What every other question to the server would meet, too: nobody there, a wrong key, no such address or model."""


class ServerTrouble(UserError):
    """What other questions may meet, too: no answer in time, status 429 or 5xx to the end, or no answer's format."""


class Patience:
    """Tells a question's failure, after which others are asked, from the server's."""

    def __init__(self) -> None:
        self.answered()

    def answered(self) -> None:
        """A question has been answered."""
        self._troubles, self._refusals = 0, 0  # since this answer
        self._refused: set[object] = set()  # pictures

    def end(self, key: str, error: UserError, about: object = None) -> UserError | None:
        """A question failed; returns what to end with, if every other one would fail, too.

        Args:
            key: the question's.
            error: of the server.
            about: its picture, which may be what is refused.
        """
        if isinstance(error, ServerError):
            return UserError(f"{key}: {error}")
        if isinstance(error, ServerTrouble):
            self._troubles += 1
        else:
            self._refusals += 1
            self._refused.add(about or key)
        refused = len(self._refused) >= _PICTURES_REFUSED_IN_A_ROW or self._refusals >= _REFUSALS_IN_A_ROW
        if not refused and self._troubles < _TROUBLES_IN_A_ROW:
            return None
        failed = self._troubles + self._refusals
        return UserError(f"{failed} questions in a row failed, so no more are asked; the last, {key}: {error}")


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        text: as it came.
        finish: ``stop`` at the end, ``length`` where ``max_tokens`` cut it off, or the server's own word.
        completion_tokens: as the server counts them; None where it does not.
        model: the name the server gives itself, with its version where it has one.
    """

    text: str
    finish: str
    completion_tokens: int | None
    model: str


def read_key(path: Path | None = None) -> str | None:
    """The API key: from a file, else from the environment's OPENAI_API_KEY, else None.

    Raises:
        UserError: the file is missing or holds anything but one word.
    """
    if path is None:
        return os.environ.get(_KEY_VARIABLE) or None
    words = read_text(path).split()
    if len(words) != 1:
        raise UserError(f"{path}: must hold the API key alone, found {len(words)} words (--api_key_file)")
    return words[0]


def picture_message(text: str, content: bytes, mime: str) -> dict[str, Any]:
    """A user's turn of a picture and, after it as in LLaVA's prompts, a text.

    Args:
        text: the question.
        content: the picture file's bytes.
        mime: ``image/png`` or ``image/jpeg``.
    """
    address = f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
    parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def _sendable(part: Any) -> Any:
    """Half of a pair of surrogates, which a model may say and UTF-8 cannot send, as the replacement character."""
    if isinstance(part, str):
        return part if part.isascii() else part.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(part, Mapping):
        return {name: _sendable(value) for name, value in part.items()}
    return [_sendable(one) for one in part] if isinstance(part, Sequence) else part


class Endpoint:
    """One model at one address. May be used from several threads at once.

    Args:
        url: up to and with the version, as ``http://localhost:8000/v1``.
        model: the name to ask for; see :meth:`models`.
        key: sent to the server, never written anywhere; None for a server that wants none.
        timeout_s: longest silence of the server.
        retries: how often it is asked again.

    Raises:
        UserError: the ``openai`` package is missing, or the address is none.
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, timeout_s: float = 120.0, retries: int = 5
    ) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise UserError(
                "an endpoint is asked through the openai package; pip install 'llava-teamlora[eval]'"
            ) from error
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {url!r} must begin with http:// or https://, as http://localhost:8000/v1")
        if timeout_s <= 0 or retries < 0:
            raise UserError(f"timeout_s {timeout_s} must be above 0 and retries {retries} not below 0")
        self.url, self.model, self.retries, self.timeout_s = url, model, retries, timeout_s
        self._key = key
        # Some word must be sent: without one the client takes the environment's key, even where none is wanted.
        self._client = OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=retries)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Reply:
        """Ask once, and again after what may pass.

        Args:
            messages: ``{role, content}`` each, as the chat-completions format has them.
            temperature: 0 for the likeliest token.
            max_tokens: longest answer.
            top_p: as in ``generation.Decoding``.
            seed: of sampling, where the server knows it.

        Raises:
            UserError: the server refused, failed to the end, withheld the answer or sent something else.
        """
        request: dict[str, Any] = {
            "model": self.model,
            "messages": _sendable(messages),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if top_p != 1.0:  # some servers refuse what they do not know, so only what is wanted is sent
            request["top_p"] = top_p
        if seed is not None:
            request["seed"] = seed
        content = self._ask(lambda: self._client.chat.completions.create(**request))
        return self._reply(content)

    def models(self) -> list[str]:
        """The names of the models it serves.

        Raises:
            UserError: as :meth:`chat`.
        """
        page = self._ask(lambda: self._client.models.list())
        entries = getattr(page, "data", None)
        names = [getattr(entry, "id", None) for entry in entries] if isinstance(entries, list) else [None]
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.url}: does not list its models as OpenAI's format has them; does it end in /v1?")
        return [str(name) for name in names]

    def _ask(self, request: Any) -> Any:
        import openai

        try:
            return request()
        except openai.APITimeoutError as error:
            raise ServerTrouble(
                f"{self.url}: no answer within {self.timeout_s:g} s, {self._attempts()}; is it overloaded?"
            ) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ServerError(f"{self.url}: cannot be reached, {self._attempts()} ({self._words(cause)})") from error
        except openai.APIStatusError as error:
            again = error.status_code in (408, 409, 429) or error.status_code >= 500
            times = f", {self._attempts()}" if again else ""
            hint = "; the address usually ends in /v1" if error.status_code == 404 else ""
            for_all = error.status_code in (401, 403, 404)
            kind = ServerError if for_all else ServerTrouble if again else UserError
            raise kind(
                f"{self.url}: status {error.status_code}{times}: {self._words(error.response.text)}{hint}"
            ) from error
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that says it is JSON and is not
            raise ServerTrouble(f"{self.url}: sent something that is no answer ({self._words(error)})") from error

    def _reply(self, content: Any) -> Reply:
        choices = getattr(content, "choices", None)
        if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
            found = content if isinstance(content, str) else getattr(content, "model_dump_json", lambda: content)()
            raise ServerTrouble(f"{self.url}: sent no chat completion but {self._words(found)}; does it end in /v1?")
        text, finish = choices[0].message.content, choices[0].finish_reason
        if finish == "content_filter":
            raise UserError(f"{self.url}: {self.model} withheld its answer (finish_reason content_filter)")
        if not isinstance(text, str):
            refusal = getattr(choices[0].message, "refusal", None)
            raise UserError(
                f"{self.url}: {self.model} answered without text (finish_reason {finish}, "
                f"{self._words(refusal) if refusal else 'no refusal given'}); a model that thinks before it answers "
                "needs more tokens"
            )
        usage = getattr(content, "usage", None)
        served = content.model if isinstance(getattr(content, "model", None), str) else self.model
        return Reply(text, str(finish), getattr(usage, "completion_tokens", None), served)

    def _attempts(self) -> str:
        return f"asked {self.retries + 1} times" if self.retries else "asked once"

    def _words(self, said: object) -> str:
        """A server's own words on one line, without the key, which some servers repeat."""
        text = " ".join(str(said).split())
        if self._key:
            text = text.replace(self._key, "[the key]")
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
