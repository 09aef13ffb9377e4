"""Answers of an OpenAI-compatible server: what is sent, in which order it comes back, failures, resuming."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Canned, Played, fails, play, says
from PIL import Image

from llava_teamlora.cli import main
from llava_teamlora.evaluation.prediction.pictures import picture_file
from llava_teamlora.evaluation.types import EncodedPicture


def question(request: dict[str, Any]) -> str:
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else content[1]["text"]


def echo(request: dict[str, Any], count: int) -> Canned:
    """Early questions take longer, so that answers come back in another order; three differ by their picture."""
    picture = request["messages"][0]["content"][0]["image_url"]["url"][-20:]
    return says(f" {question(request)} {picture}\n", finish="length" if count == 0 else "stop")


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., int]:
    def start(server: Played, *flags: str) -> int:
        where = ["--data_root", str(root), "--out", str(tmp_path / "out")]
        return main(["evaluate", "run", "easy_vqa", "--endpoint", server.url, *where, *flags])

    return start


def test_a_server_answers_a_benchmark(
    run: Callable[..., int], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    with play(echo, models=("served/model",)) as server:
        assert run(server, "--concurrency", "3", "--api_key_file", str(key)) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"test/{i}" for i in range(8)]
    assert all(row["text"].startswith(row["prompt"]) and row["text"] == row["text"].strip() for row in rows)
    assert {row["model_id"] for row in rows} == {"served/model"} and set(server.keys) == {"Bearer secret"}
    request = next(r for r in server.requests if question(r) == "what color is it?")
    assert {**request, "messages": 0} == {"model": "served/model", "temperature": 0.0, "max_tokens": 16, "messages": 0}
    sent = request["messages"][0]["content"][0]["image_url"]["url"].removeprefix("data:image/png;base64,")
    files = [(root / "easy-vqa" / "test" / "images" / f"{i}.png").read_bytes() for i in range(3)]
    assert base64.b64decode(sent) in files  # the file's own bytes
    text = (tmp_path / "out" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["model"]["model"] == "served/model" and manifest["model"]["endpoint"] == server.url
    assert manifest["first_prompt"] is None and "secret" not in text
    assert manifest["cost"]["generated_tokens"] == 24 and manifest["cost"]["cut_short"] == 1  # three tokens each
    assert "served/model (endpoint)" in "".join(capsys.readouterr().out.split("\n"))


def test_what_was_answered_before_a_failure_is_kept(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with play(lambda request, count: echo(request, 1) if count != 4 else fails(400, "not this one")) as server:
        assert run(server, "--concurrency", "2") == 1
        said = capsys.readouterr().err
        assert "error: 1 of 8 questions" in said and "status 400: " in said and "not this one" in said
        kept = (tmp_path / "out" / "predictions.rank-0.jsonl").read_text().count("\n")
        assert kept == len(server.requests) - 1 == 7
        assert run(server) == 0
        assert len(server.requests) == 9  # nothing is asked twice but the one that failed
    resumed = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    with play(lambda request, _: echo(request, 1)) as server:
        assert run(server, "--overwrite") == 0
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == resumed


@pytest.mark.parametrize(
    ("flags", "models", "message"),
    [
        ((), ("a", "b"), "serves 2 models (a, b); choose with --endpoint_model"),
        (("--answer_by", "likelihood"), ("a",), "--answer_by is for a model loaded here"),
        (("--mode", "paper"), ("a",), "--mode is for a model loaded here"),
        (("--num_beams", "2"), ("a",), "--num_beams is for a model loaded here"),
        (("--concurrency", "0"), ("a",), "--concurrency 0 must be at least 1"),
    ],
)
def test_mistakes(
    run: Callable[..., int], flags: tuple[str, ...], models: tuple[str, ...], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with play(echo, models=models) as server:
        assert run(server, *flags) == 1
    assert message in capsys.readouterr().err


def test_pictures_that_no_server_takes_are_written_anew(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    for name in ("a.jpg", "a.png", "a.bmp"):
        picture.save(tmp_path / name)
    assert picture_file(tmp_path / "a.jpg") == ((tmp_path / "a.jpg").read_bytes(), "image/jpeg")
    assert picture_file(tmp_path / "a.png") == ((tmp_path / "a.png").read_bytes(), "image/png")
    content, kind = picture_file(tmp_path / "a.bmp")
    assert kind == "image/png" and content.startswith(b"\x89PNG")
    (tmp_path / "again.png").write_bytes(content)
    with Image.open(tmp_path / "again.png") as again:
        assert again.convert("RGB").tobytes() == picture.tobytes()
    encoded = EncodedPicture("file, line 2", base64.b64encode((tmp_path / "a.jpg").read_bytes()).decode())
    assert picture_file(encoded) == ((tmp_path / "a.jpg").read_bytes(), "image/jpeg")
