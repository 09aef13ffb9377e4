"""The terminal chat: commands, pictures, mistakes, interruptions and piped lines."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.serving.terminal import Conversation, Terminal

SHORT = Decoding(max_new_tokens=5)


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture
def talk(loaded: Loaded) -> Conversation:
    return Conversation(Generator(loaded), SHORT)


def run(talk: Conversation, *lines: str) -> tuple[str, str]:
    """What a terminal shows for these lines: (answers, mistakes)."""
    waiting = iter(lines)

    def read() -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    out, err = io.StringIO(), io.StringIO()
    assert Terminal(talk, read, out, err).loop() == 0
    return out.getvalue(), err.getvalue()


def test_answers_are_those_of_generation(talk: Conversation, pictures: Path) -> None:
    from llava_teamlora.data.images import load_image

    image = load_image(pictures / "red.png")
    first = Turn("human", "<image>\nwhat color is it?")
    answer = talk.generator.generate([Query((first,), (image,))], SHORT)[0].text
    turns = (first, Turn("gpt", answer), Turn("human", "is it a circle?"))
    second = talk.generator.generate([Query(turns, (image,))], SHORT)[0].text
    out, err = run(talk, f"/image {pictures / 'red.png'}", "what color is it?", "is it a circle?")
    assert out == f"{pictures / 'red.png'}: 64 x 64 px\n{answer}\n{second}\n" and err == ""
    assert talk.turns == [*turns, Turn("gpt", second)]


def test_a_picture_may_come_later_and_a_second_begins_anew(talk: Conversation, pictures: Path) -> None:
    run(talk, "say yes", f"/image '{pictures / 'red.png'}'", "what color is it?")
    assert talk.turns[2] == Turn("human", "<image>\nwhat color is it?") and len(talk.turns) == 4
    out, _ = run(talk, f"/image {pictures / 'wide.png'}")
    assert "80 x 40 px; a new conversation begins with it" in out
    assert len(talk.images) == talk.waiting == 1 and talk.turns == []
    run(talk, "/clear")
    assert talk.images == [] and talk.waiting == 0


def test_several_pictures_before_one_question(talk: Conversation, pictures: Path) -> None:
    from llava_teamlora.data.images import load_image

    names = [str(pictures / name) for name in ("red.png", "wide.png")]
    out, err = run(talk, *(f"/image {name}" for name in names), "are they alike?", "sure?")
    assert "picture 2 for the next question" in out and err == ""
    assert [turn.text for turn in talk.turns[::2]] == ["<image>\n<image>\nare they alike?", "sure?"]
    images = tuple(load_image(name) for name in names)
    answer = talk.generator.generate([Query(tuple(talk.turns[:1]), images)], SHORT)[0].text
    assert talk.turns[1] == Turn("gpt", answer)


def test_a_typed_marker_is_no_picture(talk: Conversation, pictures: Path) -> None:
    out, err = run(talk, f"/image {pictures / 'red.png'}", "what is <image>?")
    assert "error: the text holds <image>, which marks a picture's place; leave it out" in err
    assert talk.turns == [] and talk.waiting == 1


def test_mistakes_cost_one_line_and_the_conversation_goes_on(talk: Conversation, pictures: Path) -> None:
    (pictures / "broken.png").write_text("not a picture")
    out, err = run(
        talk,
        "/image",
        "/image /nowhere.png",
        f"/image {pictures / 'broken.png'}",
        "/imag x",
        "what is <image>?",
        "word " * 5000,
        "",
        "/help",
    )
    lines = err.splitlines()
    assert len(lines) == 6 and all(line.startswith("error: ") for line in lines)
    for line, part in zip(
        lines,
        [
            "needs a path",
            "no such picture",
            "not a readable picture",
            "'/image'",
            "leave it out",
            "positions; shorten the question, or begin anew with /clear",
        ],
        strict=True,
    ):
        assert part in line
    assert out.startswith("/image PATH") and talk.turns == []


def test_a_line_that_is_no_text_costs_one_line(talk: Conversation) -> None:
    out, err = run(talk, "caf\udce9?", "/image caf\udce9.png", "what color is it?")
    assert err == "error: the line is not UTF-8 text; send it again as UTF-8\n" * 2
    assert out.count("\n") == 1 and [turn.text for turn in talk.turns][::2] == ["what color is it?"]
    waiting = iter(["caf\xe9".encode("latin-1"), b"/help", b"/exit"])
    told = io.StringIO()
    assert Terminal(talk, lambda: next(waiting).decode(), io.StringIO(), told).loop() == 0
    assert told.getvalue() == "error: the line is not UTF-8 text; send it again as UTF-8\n"


def test_a_reader_that_left_ends_it(talk: Conversation) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    for line in ("what color is it?", "/help"):
        err = io.StringIO()
        with pytest.raises(BrokenPipeError):
            Terminal(talk, lambda line=line: line, Closed(), err).loop()
        assert err.getvalue() == ""


def test_exit_ends_it(talk: Conversation) -> None:
    assert run(talk, "/exit", "never asked") == ("", "")
    assert run(talk, "/quit", "never asked") == ("", "")
    assert talk.turns == []


def test_ctrl_c_stops_an_answer_and_at_the_prompt_leaves(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(query: Query, decoding: Decoding) -> Iterator[str]:
        yield "red and"
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.generator, "stream", stream)
    out, _ = run(talk, "what color is it?")
    assert out == "red and [stopped]\n"
    assert talk.turns == [Turn("human", "what color is it?"), Turn("gpt", "red and")]

    def interrupted() -> str:
        raise KeyboardInterrupt

    assert Terminal(talk, interrupted, io.StringIO(), io.StringIO()).loop() == 0


def test_a_failing_device_is_told(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(query: Query, decoding: Decoding) -> Iterator[str]:
        raise RuntimeError("out of memory")
        yield

    monkeypatch.setattr(talk.generator, "stream", stream)
    assert run(talk, "hello") == ("", "error: RuntimeError: out of memory\n")
    assert talk.turns == []


def test_text_only_models_take_no_picture(talk: Conversation, pictures: Path) -> None:
    talk.generator.vision = None
    with pytest.raises(UserError, match="text-only model"):
        talk.show(pictures / "red.png")


def test_piped_lines(tiny: str, pictures: Path) -> None:
    command = [sys.executable, "-m", "llava_teamlora.cli", "cli", tiny, "--device", "cpu", "--max_new_tokens", "3"]
    done = subprocess.run(
        [*command, "--image", str(pictures / "tall.jpg")],
        input=b"what color is it?\ncaf\xe9\n/imag\n/help\n",
        capture_output=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8:strict"},
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert b"/exit" in done.stdout
    assert "tall.jpg: 30 x 90 px" in said and "error: /imag: no such command" in said
    assert said.count("error: the line is not UTF-8 text") == 1 and "Traceback" not in said
    assert "Loading weights" not in said


def test_a_wrong_model_is_one_line(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llava_teamlora.cli import main

    assert main(["cli", str(pictures)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
