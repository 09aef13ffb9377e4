"""What stands before every request: who may ask, how much may be sent, and the log of both."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from llava_teamlora.serving.api.events import Gone
from llava_teamlora.serving.api.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from llava_teamlora.serving.api.metrics import Metrics
    from llava_teamlora.serving.api.settings import ApiSettings

log = logging.getLogger("llava_teamlora.serving.access")

_ROUTES = ("/v1/chat/completions", "/v1/models", "/health", "/health/live", "/health/ready", "/metrics")
_DISCARDED = 8  # times the limit: so much of a body that is too large is still taken, to be able to say so


def check_key(request: Request, keys: tuple[str, ...]) -> None:
    """Raise a problem unless one of the keys comes with the request; how long it takes tells nothing about them."""
    if not keys:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    sent = _digest(given.strip()) if kind.lower() == "bearer" else b""
    right = [hmac.compare_digest(sent, _digest(key)) for key in keys]
    if not any(right):
        said = "no API key was sent" if not given else "the API key is not one of this server's"
        raise Problem(401, f"{said}; send the header Authorization: Bearer KEY", code="invalid_api_key")


async def read_body(request: Request, settings: ApiSettings) -> bytes:
    """A JSON request's body, no more of it in memory than is allowed.

    Raises:
        Problem: not JSON, too large, or too slow.
        Gone: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a page of another origin may send without being asked is no JSON
        raise Problem(415, f"the body is {kind or 'of no type'}; send Content-Type: application/json")
    try:
        return await asyncio.wait_for(_read_up_to(request, settings.max_body_bytes), settings.body_timeout_s)
    except asyncio.TimeoutError as error:
        raise Problem(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise Gone from error


async def _read_up_to(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > _DISCARDED * limit:
            break
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
    if size > limit:
        raise Problem(413, f"the body has more than {limit} bytes; send smaller pictures", code="request_too_large")
    return b"".join(parts)


class Front:
    """The outermost layer: refuses names that are not this server's, counts requests and logs a line for each.

    Args:
        app: what lies behind.
        settings: of the endpoint.
        metrics: to count in.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        codes: list[int] = []

        async def noting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                codes.append(message["status"])
            await send(message)

        app = self.app if self._known(scope) else _STRANGE_HOST
        try:
            await app(scope, receive, noting)
        finally:
            self._note(scope, codes[0] if codes else 499, time.perf_counter() - begin)

    def _known(self, scope: Scope) -> bool:
        hosts = self.settings.hosts
        return not hosts or _without_port(Headers(scope=scope).get("host", "")) in hosts

    def _note(self, scope: Scope, code: int, seconds: float) -> None:
        path = scope["path"]
        route = path if path in _ROUTES else "/v1/models/{id}" if path.startswith("/v1/models/") else "other"
        self.metrics.requests.labels(route, str(code)).inc()
        raw = scope.get("raw_path") or path.encode("utf-8", "replace")
        shown = "".join(chr(byte) if 32 < byte < 127 else "?" for byte in raw[:200])
        client = scope["client"][0] if scope.get("client") else "-"
        log.info("%s %s %s %d %.3f s", client, scope["method"], shown, code, seconds)


def problem_response(problem: Problem) -> JSONResponse:
    """As it is sent."""
    return JSONResponse(problem.body, problem.status, problem.headers)


_STRANGE_HOST = problem_response(
    Problem(400, "the Host header does not name this server; ask it by its own name, or allow this one by --allow_host")
)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower().strip("[]")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
