"""Fetching pictures, where it is allowed: never from an address that is not public."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from api_served import picture
from hostile_files import saved

from llava_teamlora.errors import UserError
from llava_teamlora.serving import remote
from llava_teamlora.serving.pictures import PictureLimits, PictureSources
from llava_teamlora.serving.remote import fetch

SOURCES = PictureSources(PictureLimits(max_bytes=5000), fetch=fetch)
SHAPE = saved(picture(1), "PNG")


class Site(BaseHTTPRequestHandler):
    """Plays the internet."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", name[3:])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = {"shape": SHAPE, "large": bytes(6000), "page": b"<html>"}.get(name)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A site called site.example, which is taken for public though this machine plays it."""
    look_up = remote.public_address
    monkeypatch.setattr(
        remote, "public_address", lambda host, port: "127.0.0.1" if host == "site.example" else look_up(host, port)
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://site.example:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_picture_is_fetched(site: str) -> None:
    assert SOURCES.open(f"{site}/shape", "it").size == (65, 64)
    assert SOURCES.open(f"{site}/to//shape", "it").size == (65, 64)  # redirected to /shape


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none", "answers with status 404"),
        ("large", "more than the 5000 bytes"),
        ("page", "is not a picture"),
        ("to/to/shape", "redirected more than 3 times|status 404"),
        ("to/file:///etc/passwd", r"must be http\(s\)"),
        ("to/ftp://example.org/x", r"must be http\(s\)"),
    ],
)
def test_what_a_site_may_send_instead(site: str, path: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        SOURCES.open(f"{site}/{path}", "it")


def test_a_redirect_is_looked_at_like_any_address(site: str) -> None:
    port = site.rsplit(":", 1)[1]
    with pytest.raises(UserError, match="not a public address"):
        SOURCES.open(f"{site}/to/http://127.0.0.1:{port}/shape", "it")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "[::1]", "[::]",
     "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "100.64.0.1",
     "2130706433", "0x7f.1", "127.1"],
)  # fmt: skip
def test_addresses_inside_are_not_asked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UserError, match="not a public address"):
        fetch(f"http://{host}/latest/meta-data", PictureLimits())


@pytest.mark.parametrize(
    "address", ["http:///x", "http://a@127.0.0.1/x", "http://:80/", "http://[/", "http://x:99999/"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UserError, match="must be|cannot be fetched|not a public"):
        fetch(address, PictureLimits())


def test_a_name_that_stands_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 80)) for place in ("93.184.215.14", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with pytest.raises(UserError, match="not a public address"):
        remote.public_address("both.example", 80)
