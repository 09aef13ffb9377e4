"""Conversations as values, and their way to JSON and back; what is wrong in a file is named by its place."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding
from llava_teamlora.serving import conversation_file
from llava_teamlora.serving.conversation import Conversation, Exchange, Picture, Reply, Settings
from llava_teamlora.serving.conversation_file import FileLimits, read_conversation, write_conversation
from llava_teamlora.serving.pictures import PictureLimits

SETTINGS = Settings("a-run", "v1", Decoding(12, 0.7, 0.9, seed=3), (1.0, 0.0, 2.5))
RED = Picture("röt.png", Image.new("RGB", (5, 3), (255, 0, 7)))
BLUE = Picture("blue.jpg", Image.new("RGB", (2, 2), (0, 0, 255)))


def said(text: str, ended: Any = "stop") -> Reply:
    return Reply(text, ended, SETTINGS)


@pytest.fixture
def talk() -> Conversation:
    """Two questions answered, the first about two pictures."""
    first = Conversation(system="be kind").show(RED).show(BLUE).ask("alike?").answered(said("no"))
    return first.ask("sure? é\n2nd line").answered(said("yes", "stopped"))


def test_a_query_is_what_the_model_is_asked(talk: Conversation) -> None:
    query = talk.ask("why?").query()
    assert query.turns == (
        Turn("human", "<image>\n<image>\nalike?"),
        Turn("gpt", "no"),
        Turn("human", "sure? é\n2nd line"),
        Turn("gpt", "yes"),
        Turn("human", "why?"),
    )
    assert (
        query.images[0] is RED.image and query.images[1] is BLUE.image
    )  # the same objects, for the tower sees each once
    assert query.system == "be kind"


def test_nothing_changes_in_place(talk: Conversation) -> None:
    before = write_conversation(talk)
    for after in (talk.undo(), talk.regenerate(), talk.edit(0, "x"), talk.clear(), talk.show(RED), talk.ask("y")):
        assert after != talk
    assert write_conversation(talk) == before


def test_undo_regenerate_and_edit(talk: Conversation) -> None:
    assert talk.undo().exchanges == talk.exchanges[:1] and not talk.undo().open
    again = talk.regenerate()
    assert again.open and again.exchanges[1].question == talk.exchanges[1].question
    assert again.regenerate() == again  # a question that waits still waits
    assert again.answered(said("maybe")).exchanges[1].reply == said("maybe")
    first = talk.edit(0, "different?")
    assert first.exchanges == (Exchange("different?", (RED, BLUE)),) and first.open
    assert talk.edit(-1, "x") == talk.edit(1, "x")
    assert talk.clear() == Conversation(system="be kind")
    assert talk.show(RED).unshow() == talk


def test_impossible_steps_are_told(talk: Conversation) -> None:
    for step, words in [
        (lambda: Conversation().undo(), "no question to undo"),
        (lambda: Conversation().regenerate(), "no question to answer again"),
        (lambda: Conversation().edit(0, "x"), "no question to edit"),
        (lambda: talk.edit(2, "x"), "no question 2; they are numbered 0 to 1"),
        (lambda: talk.edit(-3, "x"), "no question -3"),
        (lambda: talk.ask(" \n"), "the question is empty"),
        (lambda: talk.edit(0, "<image>"), "leave it out"),
        (lambda: talk.ask("x").ask("y"), "no answer yet"),
    ]:
        with pytest.raises(UserError, match=words):
            step()
    with pytest.raises(ValueError, match="no question waits"):
        talk.answered(said("x"))


def test_json_and_back(talk: Conversation) -> None:
    for conversation in (Conversation(), talk, talk.ask("open?"), talk.show(RED)):
        text = write_conversation(conversation)
        assert read_conversation(text, "f") == conversation
        assert read_conversation(text.encode(), "f") == conversation


def test_whatever_was_answered_with_comes_back() -> None:
    decoding = Decoding(10**17, 1e200, 1e-9, seed=-(2**70))
    said = Reply("", "length", Settings("m", "v1", decoding, (1e30,)))
    conversation = Conversation().ask("a\r\n\0\u2028 <b>").answered(said)
    assert read_conversation(write_conversation(conversation), "f") == conversation


def test_a_photo_that_is_large_as_png_comes_back() -> None:
    noise = Image.frombytes("RGB", (60, 40), random.Random(0).randbytes(7200))
    conversation = Conversation().show(Picture("photo.jpg", noise))
    text = write_conversation(conversation)
    assert read_conversation(text, "f", FileLimits(picture=PictureLimits(max_bytes=1000))) == conversation
    with pytest.raises(UserError, match="f: has .* bytes, at most 1000"):
        read_conversation(text, "f", FileLimits(max_bytes=1000))


def test_pictures_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before all are decoded: many small files may be large pictures."""
    text = write_conversation(Conversation().show(*[RED] * 6))
    decoded = []
    read = conversation_file._picture
    monkeypatch.setattr(conversation_file, "_picture", lambda place: decoded.append(place) or read(place))
    with pytest.raises(UserError, match=r"f: waiting\[2\]: with this one the pictures have more than 40 pixels"):
        read_conversation(text, "f", FileLimits(max_pixels=40))
    assert len(decoded) == 3


def test_the_format_is_the_documented_one(talk: Conversation) -> None:
    content = json.loads(write_conversation(talk))
    assert list(content) == ["format", "system", "turns", "waiting"] and content["format"] == 1
    assert [turn["role"] for turn in content["turns"]] == ["human", "gpt"] * 2
    picture = content["turns"][0]["pictures"][0]
    assert picture["name"] == "röt.png" and picture["data"].startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(picture["data"].partition(",")[2]))) as image:
        assert image.size == (5, 3) and image.getpixel((0, 0)) == (255, 0, 7)
    answer = content["turns"][3]
    assert list(answer) == ["role", "text", "ended", "settings", "time"] and answer["ended"] == "stopped"
    assert answer["settings"] == {
        "model": "a-run",
        "template": "v1",
        "decoding": {"max_new_tokens": 12, "temperature": 0.7, "top_p": 0.9, "num_beams": 1, "seed": 3},
        "gains": [1.0, 0.0, 2.5],
    }


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _large() -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    return _uri(file.getvalue())


def _set(*places: str | int, to: Any) -> Callable[[Any], object]:
    """Put a value at a place in the file."""

    def spoil(content: Any) -> None:
        for place in places[:-1]:
            content = content[place]
        content[places[-1]] = to

    return spoil


def _drop(*places: str | int) -> Callable[[Any], object]:
    def spoil(content: Any) -> None:
        for place in places[:-1]:
            content = content[place]
        content.pop(places[-1])

    return spoil


def _question(**fields: Any) -> Callable[[Any], object]:
    return lambda content: content["turns"][0].update(fields)


def _picture(data: Any) -> Callable[[Any], object]:
    return _set("turns", 0, "pictures", 1, "data", to=data)


def _answer(**fields: Any) -> Callable[[Any], object]:
    return lambda content: content["turns"][1].update(fields)


def _settings(**fields: Any) -> Callable[[Any], object]:
    return lambda content: content["turns"][1]["settings"].update(fields)


def _decoding(**fields: Any) -> Callable[[Any], object]:
    return lambda content: content["turns"][1]["settings"]["decoding"].update(fields)


DATA = "turns[0].pictures[1].data: "
BREAKS: list[tuple[Callable[[Any], object], str]] = [
    (_set("format", to=2), "format: must be 1"),
    (lambda content: content.clear() or content.update(format=9), "format: must be 1"),
    (_set("format", to="1"), "format: must be a whole number, found '1'"),
    (_set("format", to=True), "format: must be a whole number, found true"),
    (_drop("format"), "the field 'format' is missing"),
    (_set("turnz", to=[]), "has the unknown field 'turnz'; did you mean 'turns'?"),
    (_set("system", to=["x"]), "system: must be a text, found a list"),
    (_set("turns", to={}), "turns: must be a list, found an object"),
    (_set("turns", to=None), "turns: must be a list, found null"),
    (_set("turns", 1, to=5), "turns[1]: must be an object, found 5"),
    (_drop("turns", 2, "role"), "turns[2].role: must be 'human' or 'gpt', found null"),
    (_set("turns", 3, "role", to="user"), "turns[3].role: must be 'human' or 'gpt', found 'user'"),
    (_set("turns", 3, "role", to=["gpt"]), "turns[3].role: must be 'human' or 'gpt', found a list"),
    (_drop("turns", 0), "turns[0].role: must be 'human', found 'gpt': questions and answers alternate"),
    (_drop("turns", 1), "turns[1].role: must be 'gpt', found 'human'"),
    (lambda content: content["turns"].extend(content["turns"] * 9), "turns: holds 40 turns, at most 20 are read"),
    (_question(text=7), "turns[0].text: must be a text, found 7"),
    (_question(text="a\ud800"), "turns[0].text: holds half a character at 1"),
    (_question(text="x" * 201), "turns[0].text: has 201 characters, at most 200"),
    (_question(pictures=["a.png"]), "turns[0].pictures[0]: must be an object with name, data, found 'a.png'"),
    (_question(pictures=[{}] * 6), "turns[0].pictures: holds 6 pictures, at most 4"),
    (_set("waiting", to=[{"name": "w", "data": _uri(b"x")}] * 5), "waiting: holds 5 pictures, at most 4"),
    (lambda c: c.update(waiting=c["turns"][0]["pictures"] * 2), "holds more than 4 pictures"),
    (_set("waiting", to=[{"name": "w", "data": _large()}]), "waiting[0].data: is 40 x 30 pixels"),
    (_picture(None), f"{DATA}must be a picture as data:image/png;base64,..., found null"),
    (_picture("/etc/passwd"), f"{DATA}/etc/passwd: is not a picture as data:"),
    (_picture("http://127.0.0.1/a.png"), f"{DATA}http://127.0.0.1/a.png: is not a picture as data:"),
    (_picture(_uri(b"hello")), f"{DATA}is not a picture that can be read"),
    (_answer(text="<image>"), "turns[1].text: holds <image>"),
    (_answer(ended="bored"), "turns[1].ended: must be 'stop' or 'length' or 'stopped', found 'bored'"),
    (_answer(time="noon"), "turns[1].time: must be a time such as 2026-"),
    (_drop("turns", 1, "settings"), "turns[1]: the field 'settings' is missing"),
    (_decoding(temperature=-1), "turns[1].settings.decoding: --temperature -1.0 must be 0"),
    (_decoding(max_new_tokens=1.5), "turns[1].settings.decoding.max_new_tokens: must be a whole number, found 1.5"),
    (_settings(gains=[1, -1]), "turns[1].settings.gains[1]: must be 0 or above"),
    (_settings(gains=[True]), "turns[1].settings.gains[0]: must be a number, found true"),
]


@pytest.mark.parametrize(("spoil", "words"), BREAKS, ids=[words for _, words in BREAKS])
def test_a_broken_field_is_named(talk: Conversation, spoil: Callable[[Any], object], words: str) -> None:
    content = json.loads(write_conversation(talk))
    spoil(content)
    limits = FileLimits(max_turns=20, max_pictures=4, max_letters=200, picture=PictureLimits(max_pixels=1000))
    with pytest.raises(UserError) as caught:
        read_conversation(json.dumps(content), "f.json", limits)
    assert str(caught.value).startswith(f"f.json: {words}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "broken JSON"),
        ("{", "broken JSON"),
        (b"\xff\xfe\x00", "broken JSON"),
        ("[]", "must be an object with format, system, turns, waiting, found a list"),
        ("[" * 200_000, "nested too deeply"),
        ('{"format": ' + "1" * 5000 + "}", "broken JSON"),
        ('{"format": 1e999, "turns": []}', "format: must be a whole number"),
        ('{"format": NaN, "turns": []}', "NaN is no JSON number"),
        ("x" * 500_001, "has 500001 bytes, at most 500000 are read"),
    ],
)
def test_a_file_that_is_no_conversation(content: str | bytes, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_conversation(content, "f.json", FileLimits(max_bytes=500_000))
    assert str(caught.value).startswith("f.json: ") and words in str(caught.value)
