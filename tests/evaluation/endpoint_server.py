"""A real HTTP server that plays an OpenAI-compatible endpoint, in a thread; it says what it is told to and counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Canned:
    """One response: a status and a body; ``wait_s`` is a server that hangs."""

    status: int = 200
    body: str = "{}"
    wait_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


def says(text: str | None, *, finish: str = "stop", model: str = "played-1", tokens: int = 3) -> Canned:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    return Canned(
        body=json.dumps({"id": "x", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage})
    )


def fails(status: int, message: str = "out of order") -> Canned:
    """An error as OpenAI's format has it; ``retry-after-ms`` keeps the client's waits short."""
    body = json.dumps({"error": {"message": message, "type": "t", "code": None}})
    return Canned(status, body, headers=(("Content-Type", "application/json"), ("retry-after-ms", "1")))


@dataclass
class Played:
    """A running server.

    Attributes:
        url: its address, with ``/v1``.
        requests: bodies of the chat requests so far.
        keys: the Authorization headers so far.
    """

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def play(answer: Callable[[dict[str, Any], int], Canned], models: tuple[str, ...] = ("judge",)) -> Iterator[Played]:
    """Serve until the context is left.

    Args:
        answer: (request body, how many came before) -> response. Called under a lock: counts are exact.
        models: what ``/v1/models`` lists.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            entries = [{"id": name, "object": "model", "created": 0, "owned_by": "t"} for name in models]
            self._send(Canned(body=json.dumps({"object": "list", "data": entries})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                count = len(played.requests)
                played.requests.append(body)
                played.keys.append(self.headers["Authorization"])
                canned = answer(body, count)
            time.sleep(canned.wait_s)
            self._send(canned)

        def _send(self, canned: Canned) -> None:
            content = canned.body.encode()
            try:
                self.send_response(canned.status)
                for name, value in canned.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client gave up waiting

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    played = Played(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield played
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
