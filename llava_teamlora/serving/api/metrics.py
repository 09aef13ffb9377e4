"""What ``/metrics`` tells, in Prometheus' format: requests by their end, load, tokens, and how fast they come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llava_teamlora.serving.tickets import Done, Event, Piece

if TYPE_CHECKING:
    from llava_teamlora.serving.engine import Engine

_NAME = "llava_teamlora_"
_FIRST_S = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60)
_TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """Counts for one endpoint, in a registry of its own.

    Args:
        engine: whose load is told.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests, by what became of them", "route", "code")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read, pictures included", "model")
        self.answer_tokens = self._counter("answer_tokens", "Tokens written", "model")
        self.first = Histogram(
            f"{_NAME}first_token_seconds",
            "From a request's arrival to its first token",
            ["model"],
            buckets=_FIRST_S,
            registry=self.registry,
        )
        self.each = Histogram(
            f"{_NAME}token_seconds",
            "From one token of an answer to the next",
            ["model"],
            buckets=_TOKEN_S,
            registry=self.registry,
        )
        running = Gauge(f"{_NAME}running", "Answers in the making", registry=self.registry)
        running.set_function(lambda: engine.load.running)
        waiting = Gauge(f"{_NAME}waiting", "Requests in the line", registry=self.registry)
        waiting.set_function(lambda: engine.load.waiting)

    def watch(self, model: str, since: float) -> Watch:
        """For one answer; see :class:`Watch`."""
        return Watch(self, model, since)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(_NAME + name, said, labels, registry=self.registry)


class Watch:
    """Measures one answer by its events.

    Args:
        metrics: where to count.
        model: its id.
        since: when it was asked for, in ``time.perf_counter``'s seconds.
    """

    def __init__(self, metrics: Metrics, model: str, since: float) -> None:
        self._metrics, self._model = metrics, model
        self._histogram = metrics.first
        self._last = since

    def saw(self, event: Event) -> None:
        """An event has come."""
        if isinstance(event, Piece) and event.tokens:
            now = time.perf_counter()
            self._histogram.labels(self._model).observe(now - self._last)
            self._histogram, self._last = self._metrics.each, now
            self._metrics.answer_tokens.labels(self._model).inc(len(event.tokens))
        elif isinstance(event, Done):
            self._metrics.prompt_tokens.labels(self._model).inc(event.usage.prompt_tokens)
