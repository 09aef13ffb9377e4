"""The routes: chat completions, models, health and metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from llava_teamlora.errors import nearest
from llava_teamlora.serving.api.asking import as_requests
from llava_teamlora.serving.api.events import Events, Gone, while_there
from llava_teamlora.serving.api.guards import Front, check_key, problem_response, read_body
from llava_teamlora.serving.api.metrics import Metrics
from llava_teamlora.serving.api.problems import Problem, as_problem
from llava_teamlora.serving.api.schema import ChatRequest, read_request
from llava_teamlora.serving.api.settings import ApiSettings
from llava_teamlora.serving.api.wire import END, Wire, Written, event
from llava_teamlora.serving.tickets import Done, Ticket

if TYPE_CHECKING:
    from llava_teamlora.serving.engine import Engine
    from llava_teamlora.serving.family import Family, Member

log = logging.getLogger("llava_teamlora.serving")

_READ_AT_ONCE = 4  # requests parsed, their pictures decoded, at the same time
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(engine: Engine, settings: ApiSettings | None = None) -> FastAPI:
    """The endpoint as an ASGI application. It does not shut the engine down.

    Args:
        engine: answers.
        settings: what is allowed; None takes the usual.
    """
    settings = settings or ApiSettings()
    # Nothing is sent or fetched: the pages of documentation that FastAPI would offer load scripts from the network.
    app = FastAPI(title="llava-teamlora", docs_url=None, redoc_url=None, openapi_url=None, telemetry=_NO_TELEMETRY)
    endpoint = _Endpoint(engine, settings)
    app.include_router(endpoint.router())
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Gone, lambda request, error: Response(status_code=499))
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(Front, settings=settings, metrics=endpoint.metrics)
    return app


class _Endpoint:
    def __init__(self, engine: Engine, settings: ApiSettings) -> None:
        self.engine, self.settings = engine, settings
        self.metrics = Metrics(engine)
        self.since = int(time.time())
        self.readers = anyio.CapacityLimiter(_READ_AT_ONCE)

    def router(self) -> APIRouter:
        async def check(request: Request) -> None:
            check_key(request, self.settings.keys)

        router = APIRouter()
        guard = [Depends(check)]
        router.add_api_route("/v1/chat/completions", self.complete, methods=["POST"], dependencies=guard)
        router.add_api_route("/v1/models", self.list_models, dependencies=guard)
        router.add_api_route("/v1/models/{name:path}", self.show_model, dependencies=guard)
        router.add_api_route("/health", self.ready)
        router.add_api_route("/health/ready", self.ready)
        router.add_api_route("/health/live", self.live)
        router.add_api_route("/metrics", self.show_metrics)
        return router

    async def complete(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        since = time.perf_counter()
        body = await read_body(request, self.settings)
        try:
            asked, member, tickets = await anyio.to_thread.run_sync(self._submit, body, limiter=self.readers)
            events = Events(tickets, self.metrics, since)
            wire = Wire(asked, member)
            try:
                if asked.stream:
                    await while_there(request, events.begun())
                    return _EventStream(events, _chunks(events, wire, len(tickets)))
                answers = await while_there(request, _collected(events, len(tickets)))
                return JSONResponse(wire.completion(answers))
            except BaseException:
                events.cancel()
                raise
        except Gone:
            raise
        except Exception as error:
            raise _told(error) from error

    def _submit(self, body: bytes) -> tuple[ChatRequest, Member, list[Ticket]]:
        asked = read_request(body)
        member = self._member(asked.model)
        return asked, member, self.engine.submit_all(as_requests(asked, member, self.settings))

    async def list_models(self) -> dict[str, Any]:
        """``GET /v1/models``."""
        return {"object": "list", "data": [self._model(member) for member in self.family.models.values()]}

    async def show_model(self, name: str) -> dict[str, Any]:
        """``GET /v1/models/NAME``."""
        return self._model(self._member(name))

    async def live(self) -> dict[str, str]:
        """``GET /health/live``: the process answers."""
        return {"status": "ok"}

    async def ready(self) -> JSONResponse:
        """``GET /health`` and ``/health/ready``: it takes requests."""
        load = self.engine.load
        ready = self.engine.accepting
        said = {"status": "ok" if ready else "shutting down", "running": load.running, "waiting": load.waiting}
        return JSONResponse(said, 200 if ready else 503)

    async def show_metrics(self) -> Response:
        """``GET /metrics``."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @property
    def family(self) -> Family:
        return self.engine.family

    def _member(self, name: str) -> Member:
        models = self.family.models
        if name not in models:
            known = ", ".join(models)
            said = f"model: {name[:100]!r} is not served here, but {known}{nearest(name[:100], models)}"
            raise Problem(404, said, "model", "model_not_found")
        return models[name]

    def _model(self, member: Member) -> dict[str, Any]:
        return {
            "id": member.id,
            "object": "model",
            "created": self.since,
            "owned_by": "llava-teamlora",
            "parent": member.parent,
            "kind": member.kind,
            "experts": member.experts,
            "max_model_len": member.generator.positions,
        }


class _EventStream(StreamingResponse):
    """Lets go of answers that nobody hears to the end."""

    def __init__(self, events: Events, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(
            chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self.events = events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.events.cancel()


async def _chunks(events: Events, wire: Wire, count: int) -> AsyncIterator[bytes]:
    answers = [Written() for _ in range(count)]
    try:
        for index in range(count):
            yield wire.begin(index)
        async for index, said in events:
            first = not answers[index].tokens
            answers[index].take(said)
            if isinstance(said, Done):
                yield wire.finish(index, said)
            elif (chunk := wire.piece(index, said, first)) is not None:
                yield chunk
        yield wire.usage(answers)
        yield END
    except Exception as error:  # the status has been sent: what is left is to say it in the stream
        yield event(_told(error).body)


async def _collected(events: Events, count: int) -> list[Written]:
    answers = [Written() for _ in range(count)]
    async for index, said in events:
        answers[index].take(said)
    return answers


def _told(error: Exception) -> Problem:
    """An error as a client is told; one that is not the client's is logged in full."""
    problem = as_problem(error)
    if problem.status == 500:
        log.error("a request failed", exc_info=error)
    return problem


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "no such address; this server has /v1/chat/completions, /v1/models, /health and /metrics"}
    problem = Problem(error.status_code, said.get(error.status_code, str(error.detail)))
    return JSONResponse(problem.body, problem.status, error.headers)
