"""The endpoint by OpenAI's own client: what it answers is what the generator answers alone."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from api_served import data_uri, picture, post, served, user
from hostile_files import saved
from PIL import Image

from llava_teamlora.data.records import Turn
from llava_teamlora.evaluation.endpoint import Endpoint, picture_message
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.serving.family import Family, load_family

MODELS = ("teamlora", "lora", "tiny")
QUESTION = "what color is the shape?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def family(run_folders: dict[str, Path]) -> Family:
    return load_family([str(run_folders["teamlora"]), str(run_folders["lora"])], device="cpu")


@pytest.fixture(scope="module")
def url(family: Family) -> Iterator[str]:
    with served(family) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def alone(generator: Generator, query: Query, **how: Any) -> str:
    """What the generator answers by itself."""
    return generator.generate([query], Decoding(**{"max_new_tokens": 8, **how}))[0].text


def lines(url: str, body: dict[str, Any]) -> list[str]:
    """A stream's events as they are sent."""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [line for line in response.iter_lines() if line]


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_generation(client: openai.OpenAI, family: Family, model: str) -> None:
    generator = family.models[model].generator
    expected = alone(generator, Query.ask(QUESTION, picture()))
    messages: Any = [user(QUESTION, data_uri(picture()))]
    got = client.chat.completions.create(model=model, messages=messages, **GREEDY)
    assert [choice.message.content for choice in got.choices] == [expected]
    assert got.choices[0].message.role == "assistant" and got.object == "chat.completion" and got.model == model
    assert got.usage is not None
    prompt = len(generator.encode(Query.ask(QUESTION, picture())))
    assert got.usage.prompt_tokens == prompt
    assert got.usage.total_tokens == prompt + got.usage.completion_tokens
    stream = client.chat.completions.create(model=model, messages=messages, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected


def test_conversations_with_a_system_prompt_and_several_pictures(client: openai.OpenAI, family: Family) -> None:
    first, second = picture(1), picture(2)
    turns = (
        Turn("human", "<image>\n<image>\nwhich is red?\nsay one word"),
        Turn("gpt", "the first"),
        Turn("human", "and this?"),
    )
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        user("which is red?", data_uri(first), data_uri(second)),
        # As clients give back what they got.
        {"role": "assistant", "content": "the first", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "and this?"},
    ]
    messages[1]["content"].append({"type": "text", "text": "say one word"})
    for model in MODELS:
        expected = alone(family.models[model].generator, Query(turns, (first, second), "Be brief."))
        got = client.chat.completions.create(model=model, messages=messages, **GREEDY)
        assert got.choices[0].message.content == expected


def test_the_chunks_of_a_stream(url: str) -> None:
    body = {"model": "teamlora", "messages": [user(QUESTION, data_uri(picture()))], "n": 2, "stream": True, **GREEDY}
    body |= {"stream_options": {"include_usage": True}, "max_completion_tokens": 3, "max_tokens": None}
    *said, end = lines(url, body)
    assert end == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in said]
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks} == {
        ("chat.completion.chunk", "teamlora", chunks[0]["id"])
    }
    *chunks, last = chunks
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 6
    assert all(chunk["usage"] is None for chunk in chunks)
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["length"]
        assert own[-1]["delta"] == {}


def test_several_answers_by_one_seed(client: openai.OpenAI, family: Family) -> None:
    ask: dict[str, Any] = {"model": "teamlora", "messages": [user(QUESTION, data_uri(picture()))], "max_tokens": 8}
    ask |= {"temperature": 1.5, "top_p": 0.9}
    expected = [
        alone(
            family.models["teamlora"].generator, Query.ask(QUESTION, picture()), temperature=1.5, top_p=0.9, seed=seed
        )
        for seed in (7, 8, 9)
    ]
    assert len(set(expected)) > 1
    got = client.chat.completions.create(n=3, seed=7, **ask)
    assert [choice.message.content for choice in got.choices] == expected
    assert client.chat.completions.create(seed=7, **ask).choices[0].message.content == expected[0]
    without = {client.chat.completions.create(**ask).choices[0].message.content for _ in range(6)}
    assert len(without) > 1  # no seed: other draws each time


@pytest.mark.parametrize("as_list", [False, True])
def test_stops_end_an_answer_before_themselves(client: openai.OpenAI, family: Family, as_list: bool) -> None:
    ask: dict[str, Any] = {"model": "teamlora", "messages": [{"role": "user", "content": "tell me all"}]}
    ask |= {"temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    assert whole is not None and len(whole) > 12
    stop = whole[6:9]
    expected = whole[: whole.index(stop)].strip()
    got = client.chat.completions.create(stop=["never said", stop] if as_list else stop, **ask).choices[0]
    assert (got.message.content, got.finish_reason) == (expected, "stop")
    chunks = client.chat.completions.create(stop=stop, stream=True, **ask)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client: openai.OpenAI, family: Family, stream: bool) -> None:
    generator = family.models["teamlora"].generator
    ask: dict[str, Any] = {"model": "teamlora", "messages": [user(QUESTION, data_uri(picture(3)))], **GREEDY}
    ask |= {"logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(stream=True, **ask)]
        tokens = [token for each in chunks if each.logprobs for token in each.logprobs.content or []]
        text = "".join(each.delta.content or "" for each in chunks)
    else:
        choice = client.chat.completions.create(**ask).choices[0]
        assert choice.logprobs is not None and choice.logprobs.content is not None
        tokens, text = choice.logprobs.content, choice.message.content or ""
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode().strip() == text
    answer = generator.generate([Query.ask(QUESTION, picture(3))], Decoding(max_new_tokens=8))[0]
    assert len(tokens) == len(answer.token_ids)
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (token.token, token.logprob)  # greedy
        assert (
            sorted(each.logprob for each in token.top_logprobs) == [each.logprob for each in token.top_logprobs][::-1]
        )
    shorter = client.chat.completions.create(**{**ask, "top_logprobs": 0}).choices[0]
    assert shorter.logprobs is not None and shorter.logprobs.content is not None
    assert [token.logprob for token in shorter.logprobs.content] == pytest.approx([token.logprob for token in tokens])
    assert all(token.top_logprobs == [] for token in shorter.logprobs.content)


def test_experts_are_told_and_weighted(client: openai.OpenAI, url: str, family: Family) -> None:
    ask: dict[str, Any] = {"model": "teamlora", "messages": [user(QUESTION, data_uri(picture()))], **GREEDY}
    extra = {"participation": True, "expert_gains": [0, 1, 2, 1]}
    got = client.chat.completions.create(**ask, extra_body=extra).model_dump()
    told = got["choices"][0]["participation"]
    assert told["experts"] == family.models["teamlora"].experts == 4
    assert len(told["omega"]) == got["usage"]["completion_tokens"]
    assert all(len(token) == len(told["layers"]) for token in told["omega"])
    assert all(layer[0] == 0 for token in told["omega"] for layer in token)  # expert 1 is off
    plain = client.chat.completions.create(**ask).choices[0]
    assert "participation" not in plain.model_dump()
    again = client.chat.completions.create(**ask, extra_body={"expert_gains": [1, 1, 1, 1]}).choices[0]
    assert again.message.content == plain.message.content
    *said, _ = lines(url, {**ask, **extra, "stream": True})
    parts = [json.loads(line[6:])["choices"][0].get("participation") for line in said]
    parts = [part for part in parts if part]
    assert parts[0]["layers"] == told["layers"] and all("layers" not in part for part in parts[1:])
    assert [token for part in parts for token in part["omega"]] == told["omega"]
    for model, field, value in (("tiny", "participation", True), ("lora", "expert_gains", [1.0])):
        with pytest.raises(openai.BadRequestError, match=f"{model} has no routed experts") as refused:
            client.chat.completions.create(**{**ask, "model": model}, extra_body={field: value})
        assert refused.value.param == field


def test_models_are_told(client: openai.OpenAI) -> None:
    listed = {model.id: model.model_dump() for model in client.models.list()}
    assert list(listed) == ["teamlora", "tiny", "lora"]
    assert listed["teamlora"]["parent"] == listed["lora"]["parent"] == "tiny" and listed["tiny"]["kind"] == "base"
    assert client.models.retrieve("lora").model_dump() == listed["lora"]
    with pytest.raises(openai.NotFoundError, match="'team' is not served here, but teamlora, tiny, lora") as error:
        client.models.retrieve("team")
    assert error.value.code == "model_not_found"


def test_sixteen_at_once_are_answered_as_alone(url: str, family: Family) -> None:
    chance = random.Random(0)
    asks: list[tuple[str, Image.Image, str, dict[str, Any]]] = []
    for number in range(16):
        sampled = {"temperature": 1.0, "seed": number, "top_p": 0.95} if number % 2 else {"temperature": 0}
        model = MODELS[number % 3]
        asks.append((model, picture(number % 6), chance.choice((QUESTION, "what is it?", "is it red?")), sampled))
    expected = [
        alone(family.models[model].generator, Query.ask(text, image), **sampled) for model, image, text, sampled in asks
    ]

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:

            async def ask(number: int, model: str, image: Image.Image, text: str, how: dict[str, Any]) -> str | None:
                await asyncio.sleep(chance.random() / 5)
                body: dict[str, Any] = {
                    "model": model,
                    "messages": [user(text, data_uri(image))],
                    "max_tokens": 8,
                    **how,
                }
                if number % 3:
                    return (await client.chat.completions.create(**body)).choices[0].message.content
                stream = await client.chat.completions.create(**body, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(ask(number, *each) for number, each in enumerate(asks)))

    assert asyncio.run(ask_all()) == expected


def test_what_is_counted(client: openai.OpenAI, url: str) -> None:
    def counted() -> dict[str, float]:
        text = httpx.get(f"{url}/metrics").text
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        }

    name = 'llava_teamlora_{}{{model="lora"}}'
    requests = 'llava_teamlora_requests_total{code="%d",route="/v1/chat/completions"}'
    before = counted()
    got = client.chat.completions.create(model="lora", messages=[{"role": "user", "content": "hello"}], **GREEDY)
    post(url, {"model": "none", "messages": [{"role": "user", "content": "hello"}]})
    after = counted()
    assert got.usage is not None
    for what, expected in (
        (name.format("prompt_tokens_total"), got.usage.prompt_tokens),
        (name.format("answer_tokens_total"), got.usage.completion_tokens),
        (name.format("first_token_seconds_count"), 1),
        (name.format("token_seconds_count"), got.usage.completion_tokens - 1),
        (requests % 200, 1),
        (requests % 404, 1),
    ):
        assert after[what] - before.get(what, 0) == expected, what
    assert after["llava_teamlora_running"] == after["llava_teamlora_waiting"] == 0


def test_evaluation_s_own_client_gets_the_same(url: str, family: Family) -> None:
    expected = alone(family.models["lora"].generator, Query.ask(QUESTION, picture(4)))
    message = picture_message(QUESTION, saved(picture(4), "PNG"), "image/png")
    reply = Endpoint(f"{url}/v1", "lora").chat([message], temperature=0, max_tokens=8, seed=1)
    assert reply.text == expected and reply.model == "lora"
