"""Answers under load: many clients at once against the same clients one by one, on the engine that serves.

Clients ask about pictures of easy-VQA that all differ, the models in turns, and read the answers as streams. In every
round the same questions are asked one by one and by all clients together; the answers must be equal. Reported: time to
first token and tokens a second, each way, and their ratio in the same round. With --url the clients ask an
OpenAI-compatible endpoint, such as ``llava-teamlora serve`` is.

  OMP_NUM_THREADS=1 python benchmarks/serve_load.py --json benchmarks/results/serve_load.json
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from side_by_side import write_results

from llava_teamlora.bench.measuring import Quartiles
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction.pictures import load_picture
from llava_teamlora.generation import Decoding, Query
from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.family import load_family
from llava_teamlora.serving.tickets import Done, Failed, Piece, Request

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """Of one measurement.

    Attributes:
        models: folders, as ``llava-teamlora serve`` takes them.
        clients: asking at once.
        questions: of each client, one after the other.
        max_new_tokens: longest answer.
        rounds: that count.
        device: to answer on.
        url: of an endpoint to be asked instead; its models are then asked.
    """

    models: tuple[str, ...] = ("playground/tiny",)
    clients: int = 16
    questions: int = 4
    max_new_tokens: int = 32
    rounds: int = 5
    device: str = "cpu"
    url: str | None = None


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    model: str
    text: str
    image: Image.Image


@dataclass(frozen=True)
class Heard:
    """One answer, and how long a client waited for the first of it."""

    text: str
    tokens: int
    first_ms: float


Ask = Callable[[Question], Heard]


@dataclass(frozen=True)
class Load:
    """How one round of questions went.

    Attributes:
        answers: in the order of the questions.
        first_ms_p50: time to first token, of half of them at most this.
        first_ms_p95: likewise of 95 in 100.
        tokens_per_second: of all clients together.
    """

    answers: tuple[str, ...]
    first_ms_p50: float
    first_ms_p95: float
    tokens_per_second: float


def questions(settings: Settings, models: Sequence[str]) -> list[list[Question]]:
    """Each client's questions: every one has a picture of its own, and the models come in turns."""
    different: dict[Any, Any] = {}
    for sample in EasyVqa().load():
        different.setdefault(sample.image, sample)
    samples = list(different.values())[: settings.clients * settings.questions]
    if len(samples) < settings.clients * settings.questions:
        raise SystemExit(f"easy-VQA has {len(samples)} pictures: ask fewer questions or with fewer clients")
    asked = [Question(models[i % len(models)], s.prompt, load_picture(s.image)) for i, s in enumerate(samples)]
    return [asked[client :: settings.clients] for client in range(settings.clients)]


def run(ask: Ask, asked: Sequence[Sequence[Question]], clients: int) -> Load:
    """All questions, by so many clients at once; each of them waits for an answer before it asks again."""

    def client(mine: Sequence[Question]) -> list[Heard]:
        return [ask(question) for question in mine]

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        heard = [answer for answers in threads.map(client, asked) for answer in answers]
    seconds = time.perf_counter() - start
    waits = sorted(answer.first_ms for answer in heard)
    return Load(
        tuple(answer.text for answer in heard),
        statistics.median(waits),
        waits[min(len(waits) - 1, len(waits) * 95 // 100)],
        sum(answer.tokens for answer in heard) / seconds,
    )


def measure(ask: Ask, asked: Sequence[Sequence[Question]], settings: Settings) -> dict[str, Any]:
    """Alone and together in turns, after one round that does not count.

    Raises:
        SystemExit: an answer was another one in company.
    """
    ways: dict[str, int] = {"one by one": 1, "together": settings.clients}
    found: dict[str, list[Load]] = {name: [] for name in ways}
    for number in range(settings.rounds + 1):
        for name in ways if number % 2 else reversed(ways):
            load = run(ask, asked, ways[name])
            if number:
                found[name].append(load)
    answers = {load.answers for loads in found.values() for load in loads}
    if len(answers) != 1:
        raise SystemExit(f"answers differ between rounds or in company: {differing(answers)}")
    alone, together = found.values()
    return {
        "answers": len(next(iter(answers))),
        "equal": True,
        "ways": {name: figures(loads) for name, loads in found.items()},
        "ratio": Quartiles.of(
            [b.tokens_per_second / a.tokens_per_second for a, b in zip(alone, together, strict=True)]
        ),
    }


def figures(loads: Sequence[Load]) -> dict[str, Quartiles]:
    """Each figure over the rounds."""
    names = ("first_ms_p50", "first_ms_p95", "tokens_per_second")
    return {name: Quartiles.of([getattr(load, name) for load in loads]) for name in names}


def differing(answers: set[tuple[str, ...]]) -> str:
    """The first question that was answered in more than one way."""
    for place, said in enumerate(zip(*answers, strict=True)):
        if len(set(said)) > 1:
            return f"question {place}: {sorted(set(said))}"
    return "in number"


def engine_asker(engine: Engine, settings: Settings) -> Ask:
    """Asks an engine in this process."""

    def ask(question: Question) -> Heard:
        query = Query.ask(question.text, question.image)
        start, first = time.perf_counter(), None
        ticket = engine.submit(Request(question.model, query, Decoding(settings.max_new_tokens)))
        for event in ticket.events():
            if isinstance(event, Piece | Done) and first is None:
                first = time.perf_counter() - start
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                return Heard(event.answer.text, event.usage.completion_tokens, 1000 * (first or 0))
        raise AssertionError("a ticket's events end in Done or Failed")

    return ask


def endpoint_asker(url: str, key: str, settings: Settings) -> tuple[Ask, list[str]]:
    """Asks an endpoint through OpenAI's client; also the models that it has."""
    from openai import OpenAI

    client = OpenAI(base_url=url.rstrip("/") + "/v1", api_key=key, max_retries=0)

    def ask(question: Question) -> Heard:
        content: Any = [
            {"type": "text", "text": question.text},
            {"type": "image_url", "image_url": {"url": data_uri(question.image)}},
        ]
        start, first, pieces, tokens = time.perf_counter(), None, [], 0
        for chunk in client.chat.completions.create(
            model=question.model,
            messages=[{"role": "user", "content": content}],
            max_tokens=settings.max_new_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.perf_counter() - start
                pieces.append(chunk.choices[0].delta.content)
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return Heard("".join(pieces), tokens, 1000 * (first or time.perf_counter() - start))

    return ask, [model.id for model in client.models.list()]


def data_uri(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[str(ROOT / path) for path in Settings.models])
    for name in ("clients", "questions", "max_new_tokens", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--url", help="ask this endpoint instead, as http://127.0.0.1:8000")
    parser.add_argument("--api_key", default="none", help="of the endpoint")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    arguments = vars(parser.parse_args())
    path, key = arguments.pop("json"), arguments.pop("api_key")
    settings = replace(Settings(), **{**arguments, "models": tuple(arguments["models"])})
    if settings.url is not None:
        ask, models = endpoint_asker(settings.url, key, settings)
        found = measure(ask, questions(settings, models), settings)
    else:
        family = load_family(settings.models, device=settings.device)
        with Engine(family) as engine:
            engine.warm_up()
            models = list(family.models)
            found = measure(engine_asker(engine, settings), questions(settings, models), settings)
    for name, way in found["ways"].items():
        print(f"{name:>10}: " + ", ".join(f"{figure} {spread}" for figure, spread in way.items()))
    print(f"{found['answers']} answers, equal both ways; together {found['ratio']} x as many tokens a second")
    if path is not None:
        shown = replace(settings, models=tuple(models))
        write_results(path, "benchmarks/serve_load.py", shown, torch.device(settings.device), found)


if __name__ == "__main__":
    main()
