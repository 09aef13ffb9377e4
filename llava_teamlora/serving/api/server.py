"""One process that listens: the socket, the signals and the end."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llava_teamlora.serving.engine import Engine

_LAST_WORDS_S = 5  # for the answers of a drained engine to reach who asked
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def open_port(host: str, port: int) -> socket.socket:
    """Take an address, before anything slow is done; 0 is any free port.

    Raises:
        UserError: in use, not this machine's, or not allowed.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: is none; take one of 1 to 65535, or 0 for any that is free")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        sock = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host} --port {port}: is no address to listen on ({error})") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        why = error.strerror or error
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({why}); choose another --port") from error
    return sock


def address_of(sock: socket.socket) -> str:
    """The URL that a socket can be asked at from this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, str(host))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Listens until a signal, or ``should_exit``; then lets what has been taken on be answered.

    Args:
        app: what answers.
        engine: what computes; it is shut down at the end.
        drain_s: how long answers may still take then; those that are not done are told so.
        started: called once requests are taken.
    """

    def __init__(
        self, app: FastAPI, engine: Engine, drain_s: float = 30.0, started: Callable[[], object] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # the application writes its own
            server_header=False,
            timeout_graceful_shutdown=int(drain_s) + 1 + _LAST_WORDS_S,
        )
        super().__init__(config)
        self._engine, self._drain_s, self._tell = engine, drain_s, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.

        Raises:
            UserError: somebody else listens there by now.
        """
        try:
            await super().startup(sockets)
        except OSError as error:
            raise UserError(f"cannot listen ({error.strerror or error}); choose another --port") from error
        self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; the engine is drained meanwhile."""
        threading.Thread(target=self._engine.shutdown, args=(True, self._drain_s), daemon=True).start()
        await super().shutdown(sockets)
        await asyncio.to_thread(self._engine.shutdown)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which ends by killing the process with the signal once more: an orderly end is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
