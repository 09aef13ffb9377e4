"""An endpoint that really listens, and what its clients send."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image, ImageDraw

from llava_teamlora.serving.api.app import create_app
from llava_teamlora.serving.api.server import Server, address_of, open_port
from llava_teamlora.serving.api.settings import ApiSettings
from llava_teamlora.serving.engine import Engine, Limits
from llava_teamlora.serving.family import Family

COLORS = ("red", "green", "blue", "yellow", "black", "orange")


@contextmanager
def served(family: Family, settings: ApiSettings | None = None, limits: Limits | None = None) -> Iterator[str]:
    """The URL of a family on a free port of this machine."""
    with Engine(family, limits) as engine, listening(engine, settings) as server:
        yield server.url


@dataclass
class Listening:
    """A server and where it listens."""

    url: str
    server: Server
    thread: threading.Thread

    def end(self) -> None:
        """As a signal does, without waiting for it."""
        self.server.should_exit = True


@contextmanager
def listening(engine: Engine, settings: ApiSettings | None = None, drain_s: float = 5.0) -> Iterator[Listening]:
    """The same, of an engine that is there already."""
    ready = threading.Event()
    with open_port("127.0.0.1", 0) as sock:
        server = Server(create_app(engine, settings), engine, drain_s, ready.set)
        thread = threading.Thread(target=server.run, args=([sock],))
        url = address_of(sock)
        thread.start()
        found = Listening(url, server, thread)
        try:
            assert ready.wait(30)
            yield found
        finally:
            found.end()
            thread.join(30)
            assert not thread.is_alive()


def picture(number: int = 0) -> Image.Image:
    """A picture of a shape; different for different numbers."""
    image = Image.new("RGB", (64 + number, 64), "white")
    ImageDraw.Draw(image).ellipse((8 + number, 8, 48, 48), fill=COLORS[number % len(COLORS)])
    return image


def data_uri(image: Image.Image) -> str:
    """The picture as clients send it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return as_uri(file.getvalue())


def as_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as clients send it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def user(text: str, *addresses: str) -> dict[str, Any]:
    """A user's message with pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def post(url: str, body: Any, **headers: str) -> httpx.Response:
    """A request as it is, by no client's library; bytes are sent as they are, everything else as JSON."""
    # verify: there is nothing to verify without TLS, and reading the certificates takes longer than the answer.
    address = f"{url}/v1/chat/completions"
    if isinstance(body, bytes):
        headers = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return httpx.post(address, content=body, headers=headers, timeout=60, verify=False)
    return httpx.post(address, json=body, headers=headers, timeout=60, verify=False)


def wait_until(done: Any, timeout_s: float = 20) -> None:
    """Until it is true."""
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)
