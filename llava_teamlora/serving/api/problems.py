"""What can go wrong with a request, in OpenAI's form: a status and ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.generation import PromptTooLong
from llava_teamlora.serving.tickets import Busy, Cancelled, Closed, TimedOut

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_RETRY_AFTER_S = {429: 1, 503: 5}


class Problem(Exception):
    """A request that is not answered, or not to its end.

    Args:
        status: HTTP's.
        message: for people.
        param: the field it is about, as ``messages[0].content``.
        code: for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Sent beside it."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        wait = _RETRY_AFTER_S.get(self.status)
        return headers if wait is None else {**headers, "Retry-After": str(wait)}


def as_problem(error: Exception) -> Problem:
    """What any error looks like from outside: real words, no traceback."""
    match error:
        case Problem():
            return error
        case PromptTooLong():
            return Problem(400, str(error), "messages", "context_length_exceeded")
        case Busy():
            return Problem(429, str(error), code="queue_full")
        case Closed() | Cancelled():
            return Problem(503, str(error), code="shutting_down")
        case TimedOut():
            return Problem(504, str(error), code="timeout")
        case UserError():
            return Problem(400, str(error))
        case _:
            said = " ".join(str(error).split())[:500]
            return Problem(500, f"{type(error).__name__}: {said}" if said else type(error).__name__)
