"""Who may ask, how much at once and for how long; clients that leave, and the end of the server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from api_served import data_uri, listening, picture, post, served, user, wait_until
from held_models import endless, gate

from llava_teamlora.errors import UserError
from llava_teamlora.serving.api.app import create_app
from llava_teamlora.serving.api.server import Server, open_port
from llava_teamlora.serving.api.settings import ApiSettings
from llava_teamlora.serving.engine import Engine, Limits
from llava_teamlora.serving.family import Family, load_family
from llava_teamlora.serving.tickets import Ticket

HELLO = [{"role": "user", "content": "hello"}]
GOOD = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def family(tiny: str) -> Family:
    return load_family([tiny], device="cpu")


@pytest.fixture
def without_end(family: Family) -> Iterator[None]:
    """Answers are as long as they may be."""
    with endless(family.first.generator):
        yield


def test_only_who_has_a_key_may_ask(family: Family, caplog: pytest.LogCaptureFixture) -> None:
    settings = ApiSettings(keys=("first-key", "second-key"))
    assert "first-key" not in repr(settings)
    caplog.set_level(logging.DEBUG)
    with served(family, settings) as url, httpx.Client(verify=False) as http:
        sent = (None, "Bearer wrong", "Bearer", "first-key", "Basic first-key", "Bearer \u00e9".encode("latin-1"))
        for header in [{} if each is None else {"Authorization": each} for each in sent]:
            for address in ("/v1/models", "/v1/models/tiny"):
                response = http.get(url + address, headers=header)
                assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
            response = http.post(f"{url}/v1/chat/completions", json=GOOD, headers=header)
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        for key in settings.keys:
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                assert [model.id for model in client.models.list()] == ["tiny"]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="third-key", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="not one of this server's"):
                client.models.list()
        for address in ("/health", "/health/live", "/health/ready", "/metrics"):
            assert http.get(url + address).status_code == 200
    own = [record.getMessage() for record in caplog.records if record.name.startswith("llava_teamlora")]
    assert any("GET /v1/models 401" in line for line in own) and not any("-key" in line for line in own)


def test_only_allowed_pages_and_names(family: Family) -> None:
    preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    with served(family) as url:
        assert "access-control-allow-origin" not in httpx.get(f"{url}/v1/models", headers=preflight).headers
        assert httpx.options(f"{url}/v1/chat/completions", headers=preflight).status_code == 405
    settings = ApiSettings(keys=("key",), origins=("https://page.example",), hosts=("127.0.0.1", "::1"))
    with served(family, settings) as url:
        response = httpx.options(f"{url}/v1/chat/completions", headers=preflight)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "https://page.example")
        other = httpx.options(f"{url}/v1/chat/completions", headers={**preflight, "Origin": "https://other.example"})
        assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
        for host, code in (("rebound.example", 400), ("127.0.0.1.rebound.example:80", 400), ("[::1]:80", 200)):
            assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == code


def test_a_full_line(family: Family) -> None:
    with gate() as held, Engine(family, Limits(max_batch=1, max_waiting=1)) as engine, listening(engine) as there:
        held.allow(0)
        answers: list[int] = []
        asking = [threading.Thread(target=lambda: answers.append(post(there.url, GOOD).status_code)) for _ in range(2)]
        asking[0].start()
        wait_until(lambda: engine.load.running == 1)
        assert post(there.url, {**GOOD, "n": 2}).status_code == 429  # all or none
        assert engine.load.waiting == 0
        asking[1].start()
        wait_until(lambda: engine.load.waiting == 1)
        refused = post(there.url, GOOD)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        held.open()
        for thread in asking:
            thread.join(30)
        assert answers == [200, 200]
        with openai.OpenAI(base_url=f"{there.url}/v1", api_key="none", max_retries=0) as client:
            assert client.chat.completions.create(**GOOD).choices[0].finish_reason


def test_an_answer_that_takes_too_long(family: Family, without_end: None) -> None:
    with served(family, limits=Limits(timeout_s=0.2)) as url:
        body = {**GOOD, "max_tokens": 900}
        response = post(url, body)
        assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="the time for this answer is over"):
                for _ in client.chat.completions.create(**body, stream=True):
                    pass


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_not_answered_any_more(
    family: Family, without_end: None, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go: list[Ticket] = []
    cancel = Engine.cancel
    monkeypatch.setattr(Engine, "cancel", lambda self, ticket: (cancel(self, ticket), let_go.append(ticket)))
    with gate() as held, Engine(family) as engine, listening(engine) as there:
        held.allow(3)
        body = {**GOOD, "max_tokens": 900, "n": 2, "stream": stream}
        address = f"{there.url}/v1/chat/completions"
        if stream:
            with httpx.stream("POST", address, json=body, timeout=30) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(address, json=body, timeout=httpx.Timeout(30, read=1))
        wait_until(lambda: len(let_go) == 2)
        held.open()
        wait_until(lambda: engine.load.running == 0)
        assert held.steps <= 4  # of 900
        assert post(there.url, {**GOOD, "max_tokens": 2}).status_code == 200


def test_a_failure_of_the_model_is_told(
    family: Family, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generator = family.first.generator

    def fail(*_: object) -> None:
        raise RuntimeError("out of\nsomething")

    with served(family) as url:
        monkeypatch.setattr(generator, "_prefill", fail)
        response = post(url, GOOD)
        assert response.status_code == 500
        assert response.json()["error"] == {
            "message": "RuntimeError: out of something", "type": "server_error", "param": None, "code": None
        }  # fmt: skip
        assert any(record.exc_info and "out of\nsomething" in str(record.exc_info[1]) for record in caplog.records)
        monkeypatch.undo()
        assert post(url, GOOD).status_code == 200


def stream_into(url: str, body: dict[str, Any], lines: list[str]) -> None:
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=60) as response:
        lines += [line for line in response.iter_lines() if line]


def test_what_was_taken_on_is_answered_before_the_end(family: Family, without_end: None) -> None:
    lines: list[str] = []
    with gate() as held, Engine(family) as engine, listening(engine, drain_s=30) as there:
        held.allow(2)
        client = threading.Thread(target=stream_into, args=(there.url, GOOD, lines))
        client.start()
        held.wait_for(2)
        there.end()
        wait_until(lambda: not engine.accepting)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{there.url}/health")
        held.open()
        client.join(30)
        there.thread.join(30)
        assert not client.is_alive() and not there.thread.is_alive()
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"


def test_what_is_not_done_in_time_is_told_so(family: Family, without_end: None) -> None:
    lines: list[str] = []
    with gate() as held, Engine(family) as engine, listening(engine, drain_s=0.1) as there:
        held.allow(2)
        client = threading.Thread(target=stream_into, args=(there.url, GOOD, lines))
        client.start()
        held.wait_for(2)
        there.end()
        client.join(30)  # while the model is still held
        assert not client.is_alive()
        held.open()
    assert json.loads(lines[-1][6:])["error"]["code"] == "shutting_down"


def test_pictures_shared_by_several_answers_are_looked_at_once(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = family.first.generator
    seen: list[int] = []
    look = generator.base.get_image_features
    monkeypatch.setattr(
        generator.base,
        "get_image_features",
        lambda pixel_values, **more: (seen.append(len(pixel_values)), look(pixel_values=pixel_values, **more))[1],
    )
    with served(family) as url:
        body = {**GOOD, "messages": [user("what color is it?", data_uri(picture()))], "n": 4}
        assert post(url, body).status_code == 200
    assert seen == [1]


def test_readiness_ends_with_the_engine(family: Family, tmp_path: Path) -> None:
    with Engine(family) as engine, listening(engine) as there:
        assert httpx.get(f"{there.url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
        engine.shutdown()
        assert httpx.get(f"{there.url}/health/ready").status_code == 503
        assert httpx.get(f"{there.url}/health/live").status_code == 200
        response = post(there.url, GOOD)
        assert response.status_code == 503 and response.headers["retry-after"] == "5"


def test_a_text_model_and_a_template_without_a_system_prompt() -> None:
    text_model = str(Path(__file__).parents[2] / "playground" / "tiny_text")
    with served(load_family([text_model], version="cme", device="cpu")) as url:
        body = {"model": "tiny_text", "max_tokens": 2}
        assert post(url, {**body, "messages": HELLO}).status_code == 200
        response = post(url, {**body, "messages": [user("what is it?", data_uri(picture()))]})
        assert response.status_code == 400 and "is a text-only model" in response.json()["error"]["message"]
        response = post(url, {**body, "messages": [{"role": "system", "content": "Be brief."}, *HELLO]})
        assert response.status_code == 400 and "no place for a system prompt" in response.json()["error"]["message"]


def test_a_port_that_was_taken_meanwhile(family: Family) -> None:
    with (
        open_port("127.0.0.1", 0) as own,
        open_port("127.0.0.1", own.getsockname()[1]) as other,
        Engine(family) as engine,
    ):
        other.listen()
        with pytest.raises(UserError, match="cannot listen .*choose another --port"):
            Server(create_app(engine), engine).run(sockets=[own])
