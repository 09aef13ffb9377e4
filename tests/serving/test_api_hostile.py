"""Malformed, huge and hostile requests: each gets a clear 4xx, and the server answers the next one."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_served import as_uri, data_uri, picture, post, served, user
from hostile_files import hostile_files
from outbound import watched

from llava_teamlora.serving.api.settings import ApiSettings
from llava_teamlora.serving.family import Family, load_family
from llava_teamlora.serving.pictures import PictureLimits, PictureSources

HOSTILE = hostile_files()
HELLO = {"role": "user", "content": "hello"}
GOOD = {"model": "tiny", "messages": [HELLO], "max_tokens": 2}


@pytest.fixture(scope="module")
def family(tiny: str) -> Family:
    return load_family([tiny], device="cpu")


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    picture().save(folder / "shape.png")
    (folder / "link.png").symlink_to("/etc/hostname")
    return folder


@pytest.fixture(scope="module")
def url(family: Family, allowed: Path) -> Iterator[str]:
    pictures = PictureSources(PictureLimits(max_bytes=2**20), (allowed,))
    settings = ApiSettings(
        pictures=pictures, max_body_bytes=4 * 2**20, max_messages=8, max_pictures=3, body_timeout_s=1
    )
    with served(family, settings) as address:
        yield address


@pytest.fixture(autouse=True)
def lives_on(url: str) -> Iterator[None]:
    """Whatever a test sends, the server answers afterwards, and has asked nobody else."""
    with watched() as calls:
        yield
    assert calls == []
    assert post(url, GOOD).status_code == 200


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a refusal in OpenAI's form."""
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and len(error["message"]) < 800 and "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [[]]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{**HELLO, "name": "Ada"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content[0].image_url",
        ),
        ({"messages": [HELLO, HELLO]}, "messages[1].role"),
        ({"messages": [HELLO, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [HELLO, {"role": "system", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, HELLO]},
         "messages[0].content"),
        ({"messages": [{"role": "user", "content": "<image> what is it?"}]}, "messages[0].content"),
        ({"messages": [HELLO, {"role": "assistant", "content": "x"}] * 4 + [HELLO]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": None, "max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"max_completion_tokens": 3}, None),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 1}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, None),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
        ({"top_logprobs": 2}, None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"made_up": 1}, "made_up"),
        ({"expert_gains": [1, 1, 1, 1]}, "expert_gains"),
        ({"expert_gains": []}, "expert_gains"),
        ({"expert_gains": [-1]}, "expert_gains[0]"),
        ({"participation": 1}, "participation"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(url: str, change: dict[str, Any], param: str | None) -> None:
    error = refused(post(url, json.dumps({**GOOD, **change}).encode()))
    assert error["param"] == param and error["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(url: str) -> None:
    nothing = dict.fromkeys(
        ("stop", "seed", "n", "tools", "user", "top_p", "stream", "logprobs", "logit_bias", "audio")
    )
    more = {"tools": [], "presence_penalty": 0, "frequency_penalty": 0.0, "response_format": {"type": "text"}}
    assert post(url, {**GOOD, **nothing, **more, "logit_bias": {}, "user": "ada", "store": False}).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "a JSON object, found a list"),
        (b"null", "a JSON object, found null"),
        (b'"text"', "a JSON object, found a text"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"model": "\xc3"}', "not UTF-8"),
        (json.dumps(GOOD).replace('"tiny"', "NaN").encode(), "NaN is no number in JSON"),
        (json.dumps({**GOOD, "temperature": float("inf")}).encode(), "Infinity is no number"),
        (b'{"n": ' + b"9" * 100_000 + b"}", "not JSON"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"messages":' * 200_000, "nested too deeply"),
        (json.dumps(GOOD).encode() + b"x", "not JSON"),
        (json.dumps(GOOD).replace("hello", "\\ud83d").encode(), "surrogate"),
        (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
    ],
    ids=range(15),
)
def test_bodies_that_are_no_json(url: str, body: bytes, said: str) -> None:
    assert said in refused(post(url, body))["message"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures(url: str, name: str) -> None:
    error = refused(post(url, {**GOOD, "messages": [user("what is it?", as_uri(HOSTILE[name]))]}))
    assert (error["param"], error["code"]) == ("messages[0].content[0].image_url", "invalid_image")


@pytest.mark.parametrize(
    "address",
    ["/etc/passwd", "file:///etc/passwd", "../../../etc/passwd", "file://{}/../../etc/passwd", "{}/link.png",
     "file://{}/%2e%2e/%2e%2e/etc/passwd", "http://127.0.0.1:1/x.png", "https://example.org/x.png", "//example.org/x",
     "ftp://example.org/x.png", "gopher://example.org", "data:text/html,<script>", "", "\r\nHost: x", "\u202e"],
)  # fmt: skip
def test_pictures_from_elsewhere(url: str, allowed: Path, address: str) -> None:
    error = refused(post(url, {**GOOD, "messages": [user("what is it?", address.format(allowed))]}))
    assert error["param"].startswith("messages[0].content[0].image_url") and "root:" not in error["message"]


def test_pictures_from_the_allowed_folder(url: str, allowed: Path) -> None:
    texts = {
        post(url, {**GOOD, "temperature": 0, "messages": [user("what is it?", address)]}).json()["choices"][0][
            "message"
        ]["content"]
        for address in ("shape.png", f"{allowed}/shape.png", f"file://{allowed}/shape.png", data_uri(picture()))
    }
    assert len(texts) == 1


def test_too_many_pictures(url: str) -> None:
    error = refused(post(url, {**GOOD, "messages": [user("which?", *[data_uri(picture())] * 4)]}))
    assert "4 pictures, at most 3" in error["message"]


@pytest.mark.parametrize("size", [20_000, 2**20])
def test_prompts_that_are_too_long(url: str, size: int) -> None:
    text = ("what color? " * (size // 12 + 1))[:size]
    error = refused(post(url, {**GOOD, "messages": [{"role": "user", "content": text}]}))
    assert error["code"] == "context_length_exceeded"


def test_bodies_that_are_too_large(url: str) -> None:
    error = refused(post(url, b" " * (4 * 2**20 + 1)), 413)
    assert str(4 * 2**20) in error["message"]

    def parts() -> Iterator[bytes]:  # no length is said before
        for _ in range(40):
            yield b" " * 2**18

    headers = {"Content-Type": "application/json"}
    refused(httpx.post(f"{url}/v1/chat/completions", content=parts(), headers=headers, timeout=60), 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_another_site_s_page_may_send_is_not_taken(url: str, kind: str) -> None:
    refused(post(url, json.dumps(GOOD).encode(), Content_Type=kind), 415)


def test_other_addresses_and_methods(url: str) -> None:
    refused(httpx.get(f"{url}/v1/completions"), 404)
    refused(httpx.get(f"{url}/v1/chat/completions"), 405)
    refused(httpx.get(f"{url}/v1/models/..%2f..%2fetc"), 404)
    for page in ("/docs", "/redoc", "/openapi.json"):  # they would fetch scripts from the network
        refused(httpx.get(url + page), 404)


def raw(url: str, content: bytes, finish: bool = False) -> bytes:
    """What comes back for bytes that need be no request."""
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=20) as sock:
        sock.sendall(content)
        if finish:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer and not finish:
                break
        return answer


def head(length: int | str) -> bytes:
    kind = "Content-Type: application/json"
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\nContent-Length: {length}\r\n\r\n".encode()
    )


def test_lengths_that_are_lies(url: str) -> None:
    body = json.dumps(GOOD).encode()
    assert raw(url, head(len(body)) + body).startswith(b"HTTP/1.1 200")
    assert raw(url, head(len(body) - 9) + body).startswith(b"HTTP/1.1 400")  # shorter than what comes
    assert raw(url, head(len(body) + 9) + body).startswith(b"HTTP/1.1 408")  # the rest never comes
    raw(url, head(len(body) + 9) + body, finish=True)  # hangs up midway
    for length in ("-1", "x", str(10**30)):
        assert raw(url, head(length) + body)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 408", b"HTTP/1.1 413")


def test_what_is_no_http(url: str) -> None:
    for content in (b"\0" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nA: " + b"x" * 200_000):
        assert raw(url, content).startswith(b"HTTP/1.1 4")


def test_a_slow_client(url: str) -> None:
    assert raw(url, head(1000) + b"{").startswith(b"HTTP/1.1 408")


def _anything(chance: random.Random, depth: int = 0) -> Any:
    """A random JSON value, made of what might be mistaken for something."""
    texts = [
        "",
        "tiny",
        "user",
        "assistant",
        "system",
        "text",
        "image_url",
        "data:image/png;base64,AAAA",
        "é\0",
        "9",
        "x" * 40,
    ]
    leaves: list[Callable[[], Any]] = [
        lambda: None,
        lambda: chance.random() < 0.5,
        lambda: chance.choice([0, 1, -1, 2, 10**30, 0.5, -1e308]),
        lambda: chance.choice(texts),
    ]
    if depth > 4 or chance.random() < 0.5:
        return chance.choice(leaves)()
    if chance.random() < 0.5:
        return [_anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = ["role", "content", "type", "text", "image_url", "url", "detail", "name", "tool_calls", "include_usage"]
    return {chance.choice(names): _anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def test_random_values_in_every_field(url: str) -> None:
    """None of 200 random requests gets anything but an answer or a refusal in OpenAI's form."""
    chance = random.Random(0)
    names = (
        "model messages stream stream_options n stop seed temperature top_p tools user max_tokens logprobs top_logprobs"
    )
    names += " max_completion_tokens expert_gains participation response_format logit_bias presence_penalty"
    codes = set()
    with httpx.Client(timeout=60) as client:
        for _ in range(200):
            body = dict(GOOD)
            for field in chance.sample(names.split(), chance.choice((1, 1, 2))):
                body[field] = _anything(chance)
            if chance.random() < 0.3:
                body["messages"] = [{"role": "user", "content": _anything(chance)}]
            response = client.post(f"{url}/v1/chat/completions", json=body)
            codes.add(response.status_code)
            if response.status_code != 200:
                assert response.status_code in (400, 404), (body, response.text)
                refused(response, response.status_code)
    assert codes == {200, 400, 404}
