"""The client against a real server on this machine: what comes back, what is asked again, what is refused."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest
from endpoint_server import Canned, fails, play, says

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.endpoint import Endpoint, Patience, Reply, ServerTrouble, picture_message, read_key

ASK = [{"role": "user", "content": "hello"}]


def chat(url: str, *, retries: int = 2, timeout_s: float = 5.0, key: str | None = None) -> Reply:
    return Endpoint(url, "judge", key, timeout_s, retries).chat(ASK, temperature=0.0, max_tokens=3)


def test_a_reply_and_what_was_asked() -> None:
    with play(lambda body, count: says("0.5", finish="length", model="judge-0613", tokens=2)) as server:
        reply = Endpoint(server.url, "judge", "sk-secret").chat(ASK, temperature=0.5, max_tokens=3, top_p=0.9, seed=7)
    assert reply == Reply("0.5", "length", 2, "judge-0613")
    assert server.requests == [
        {"messages": ASK, "model": "judge", "temperature": 0.5, "max_tokens": 3, "top_p": 0.9, "seed": 7}
    ]
    assert server.keys == ["Bearer sk-secret"]


def test_what_is_not_asked_for_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    with play(lambda body, count: says("0")) as server:
        chat(server.url)
    assert set(server.requests[0]) == {"messages", "model", "temperature", "max_tokens"}
    assert server.keys == ["Bearer none"]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_asks_again_after_what_may_pass(status: int) -> None:
    with play(lambda body, count: fails(status) if count < 2 else says("1.0")) as server:
        assert chat(server.url).text == "1.0"
    assert len(server.requests) == 3


def test_gives_up_in_the_end() -> None:
    with play(lambda body, count: fails(500, "no memory")) as server:
        with pytest.raises(UserError, match=r"/v1: status 500, asked 3 times: .*no memory"):
            chat(server.url)
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "words"), [(400, "max_tokens is odd"), (401, "Incorrect"), (404, "ends in /v1")])
def test_a_refusal_is_not_asked_again(status: int, words: str) -> None:
    with play(lambda body, count: fails(status, "Incorrect key sk-secret, max_tokens is odd")) as server:
        with pytest.raises(UserError, match=f"status {status}: .*{words}") as caught:
            chat(server.url, key="sk-secret")
    assert len(server.requests) == 1
    assert "sk-secret" not in str(caught.value)


def test_a_hanging_server() -> None:
    with play(lambda body, count: Canned(wait_s=1.0)) as server:
        with pytest.raises(UserError, match=r"no answer within 0\.1 s, asked once"):
            chat(server.url, retries=0, timeout_s=0.1)


def test_nobody_there() -> None:
    with play(lambda body, count: says("")) as server:
        pass
    with pytest.raises(UserError, match=r"cannot be reached, asked once"):
        chat(server.url, retries=0)


@pytest.mark.parametrize(
    "body",
    ['{"choices": [{"mess', '{"choices": []}', '{"choices": [{"index": 0}]}', "[]", '"text"', "null", "{}"],
)
def test_a_body_that_is_no_completion(body: str) -> None:
    with play(lambda _, count: Canned(body=body)) as server:
        with pytest.raises(UserError, match=r"/v1: sent"):
            chat(server.url, retries=0)


def test_a_page_instead_of_an_endpoint() -> None:
    page = Canned(body="<html>hello</html>", headers=(("Content-Type", "text/html"),))
    with play(lambda body, count: page) as server:
        with pytest.raises(UserError, match=r"sent no chat completion but <html>hello</html>"):
            chat(server.url, retries=0)


@pytest.mark.parametrize(
    ("reply", "words"), [(says(None), "without text"), (says("", finish="content_filter"), "withheld")]
)
def test_no_answer_is_not_taken_for_one(reply: Canned, words: str) -> None:
    with play(lambda body, count: reply) as server:
        with pytest.raises(UserError, match=words):
            chat(server.url)


def test_an_empty_answer_is_one() -> None:
    with play(lambda body, count: says("")) as server:
        assert chat(server.url).text == ""


def test_models() -> None:
    with play(lambda body, count: says(""), models=("vicuna-7b", "llava-7b")) as server:
        assert Endpoint(server.url, "llava-7b").models() == ["vicuna-7b", "llava-7b"]


def test_picture_message() -> None:
    message = picture_message("what?", b"\x89PNG", "image/png")
    picture, text = message["content"]
    assert message["role"] == "user" and text == {"type": "text", "text": "what?"}
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == b"\x89PNG"


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    assert read_key() == "from-environment"
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert read_key(file) == "from-file"
    file.write_text("")
    with pytest.raises(UserError, match=r"found 0 words"):
        read_key(file)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert read_key() is None


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UserError, match=r"--endpoint .* must begin with http"):
        Endpoint(url, "judge")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'llava-teamlora\[eval\]'"):
        Endpoint("http://x/v1", "judge")


def test_patience_counts_time_outs_by_questions_and_refusals_by_pictures() -> None:
    refusal, trouble = UserError("no"), ServerTrouble("no answer in time")
    patience = Patience()
    assert [patience.end(str(i), trouble, "one picture") for i in range(19)] == [None] * 19
    assert str(patience.end("last", trouble, "one picture")).startswith("20 questions in a row failed")
    patience.answered()
    # 1999 questions about 400 pictures are fewer than 500 pictures; the 2000th is one question too many.
    assert [patience.end(str(i), refusal, f"picture {i % 400}") for i in range(1999)] == [None] * 1999
    assert str(patience.end("last", refusal, "picture 0")).startswith("2000 questions in a row failed")
    patience.answered()
    assert [patience.end(str(i), refusal, f"picture {i}") for i in range(499)] == [None] * 499
    assert patience.end("again", refusal, "picture 0") is None
    assert patience.end("last", refusal, "picture 499") is not None


def test_a_time_out_among_refusals_is_one_time_out() -> None:
    patience = Patience()
    assert [patience.end(str(i), UserError("no")) for i in range(100)] == [None] * 100
    assert patience.end("late", ServerTrouble("no answer in time")) is None
    assert [patience.end(f"late {i}", ServerTrouble("no answer in time")) for i in range(18)] == [None] * 18
    # An answer is a sign of life to both.
    patience.answered()
    assert patience.end("late", ServerTrouble("no answer in time")) is None
