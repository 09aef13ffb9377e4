"""The chat page in a real browser: a picture, questions, and what one does with the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsers
import held_models
import pytest
from browser_page import PATIENCE_MS, Chat, Served, gone, open_part, says, serve, unharmed, wait_until

from llava_teamlora.data.images import load_image
from llava_teamlora.generation import Decoding, Query
from llava_teamlora.serving.tickets import Request

# Gradio leaves event loops of its threads to the garbage collector, and uses what pandas will drop.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
COLOR = "what color is the shape?"
Open = Callable[..., Chat]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("votes") / "votes.jsonl"


@pytest.fixture(scope="module")
def served(run_folders: dict[str, Path], votes: Path) -> Iterator[Served]:
    paths = [run_folders["teamlora"], run_folders["lora"]]
    with serve(paths, decoding=Decoding(max_new_tokens=24), log_votes=votes) as served:
        yield served


@pytest.fixture(scope="module")
def context(chromium: Any) -> Iterator[Any]:
    """One browser for all tests, which keeps the page's files; each page is a conversation of its own."""
    context = chromium.new_context(locale="en-GB", viewport=DESKTOP, accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def open_chat(served: Served, context: Any) -> Iterator[Open]:
    """``open_chat(viewport)``; at the end: nothing left this machine, failed or broke out."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    chats: list[Chat] = []

    def opened(viewport: dict[str, int] = DESKTOP, **media: str) -> Chat:
        chats.append(Chat(context.new_page()))
        page = chats[-1].page
        chats[-1].watch()
        page.set_viewport_size(viewport)
        page.emulate_media(**media)
        page.goto(served.url)
        page.wait_for_selector("#question textarea:enabled")
        return chats[-1]

    yield opened
    for chat in chats:
        unharmed(chat, served.url)
        chat.page.close()
    assert served.calls == []


def alone(served: Served, model: str, picture: Path, question: str = COLOR, **options: Any) -> str:
    """The answer of a model that is asked by itself."""
    query = Query.ask(question, load_image(picture))
    return served.answer(Request(model, query, Decoding(max_new_tokens=24), **options))


@pytest.mark.parametrize("viewport", (DESKTOP, PHONE), ids=("desktop", "phone"))
def test_a_picture_is_asked_about(served: Served, open_chat: Open, pictures: Path, viewport: dict[str, int]) -> None:
    chat = open_chat(viewport)
    chat.ask(COLOR, pictures / "red.png")
    says(chat.bubbles("bot"), alone(served, "teamlora", pictures / "red.png"))
    assert chat.sideways <= 0
    says(chat.bubbles("user").last, COLOR)
    for place in ("#chat-left [data-testid=user] img", "#prepared img"):
        wait_until(chat, lambda place=place: chat.page.locator(place).evaluate("image => image.naturalWidth") == 64)
    # Another question in the same conversation has the picture before it.
    chat.ask("what shape is it?")
    chat.bubbles("bot").nth(1).wait_for()
    turns = served.engine.requests[-1].query.turns
    assert [turn.role for turn in turns] == ["human", "gpt", "human"] and turns[2].text == "what shape is it?"


def test_an_answer_streams_and_stops_midway(served: Served, open_chat: Open, pictures: Path) -> None:
    chat = open_chat()
    chat.slide("max-tokens", 20)
    models = served.engine.family.models.values()
    with held_models.endless(*(model.generator for model in models)), held_models.gate() as gate:
        whole = alone(served, "teamlora", pictures / "red.png").split()
        gate.allow(5)
        chat.ask(COLOR, pictures / "red.png")
        gate.wait_for(5)
        chat.page.wait_for_function(
            "n => document.querySelector('#chat-left [data-testid=bot]')?.innerText.split(/\\s+/).length >= n", arg=3
        )
        chat.page.locator("#question .stop-button").click()
        says(chat.page.locator("#notice"), "stopped")  # at once: the model is still in its step
        gate.open()
        served.answer(Request("teamlora", Query.ask("what?"), Decoding(max_new_tokens=1)))
    assert gate.steps <= 7
    shown = chat.bubbles("bot").inner_text().split()
    assert shown == whole[: len(shown)] and 3 <= len(shown) <= 6 < len(whole)
    # The conversation goes on.
    chat.ask(COLOR)
    chat.bubbles("bot").nth(1).wait_for()


def test_regenerate_edit_undo_and_clear(served: Served, open_chat: Open, pictures: Path) -> None:
    chat = open_chat()
    page, bot, user = chat.page, chat.bubbles("bot"), chat.bubbles("user")
    red = alone(served, "teamlora", pictures / "red.png")
    chat.ask(COLOR, pictures / "red.png")
    says(bot, red)
    asked = len(served.engine.requests)
    page.locator("#again").click()
    says(bot, red)
    wait_until(chat, lambda: len(served.engine.requests) == asked + 1)
    assert served.engine.requests[-1].query.turns == served.engine.requests[-2].query.turns
    says(bot, red)
    user.last.hover()
    page.get_by_label("Edit").last.click()
    page.locator("#chat-left textarea").fill("what shape is it?")
    page.locator("#chat-left").get_by_label("Submit").click()
    says(bot, alone(served, "teamlora", pictures / "red.png", "what shape is it?"))
    says(user.last, "what shape is it?")
    assert served.engine.requests[-2].query.turns[0].text == "<image>\nwhat shape is it?"
    page.locator("#undo").click()
    gone(bot)
    chat.ask("are you there?")
    bot.wait_for()
    page.locator("#clear").click()
    gone(user)


def test_an_expert_is_switched_off(served: Served, open_chat: Open, pictures: Path) -> None:
    chat = open_chat()
    chat.ask(COLOR, pictures / "red.png")
    says(chat.bubbles("bot"), alone(served, "teamlora", pictures / "red.png"))
    strip = chat.page.locator("#experts-left")
    strip.get_by_role("img").first.wait_for()
    before = strip.inner_html()
    chat.slide("gain-0", 0)
    chat.page.locator("#again").click()
    wait_until(chat, lambda: served.engine.requests[-1].gains is not None)
    gains = served.engine.requests[-1].gains
    assert gains is not None and gains[0] == 0 and set(gains[1:]) == {1}
    says(chat.bubbles("bot"), alone(served, "teamlora", pictures / "red.png", gains=gains))
    wait_until(chat, lambda: strip.inner_html() != before)


@pytest.mark.parametrize("viewport", (DESKTOP, PHONE), ids=("desktop", "phone"))
def test_two_adapters_side_by_side(served: Served, open_chat: Open, pictures: Path, viewport: dict[str, int]) -> None:
    chat = open_chat(viewport)
    chat.page.locator("#compare input").check()
    chat.page.locator("#model-right input").click()
    chat.page.get_by_role("option", name="lora", exact=True).click()
    chat.ask(COLOR, pictures / "red.png")
    left, right = (alone(served, model, pictures / "red.png") for model in ("teamlora", "lora"))
    assert left != right
    says(chat.bubbles("bot", "left"), left)
    says(chat.bubbles("bot", "right"), right)
    assert chat.sideways <= 0


NASTY = """<img src="https://203.0.113.7/x.png" onerror="window.broken = 1"><script>window.broken = 1</script>"""


def test_what_is_typed_stays_text(open_chat: Open) -> None:
    """Also in a file's name. Nothing is fetched for it, as the end of every test here sees."""
    chat = open_chat()
    chat.ask(f"{NASTY} ![x](https://203.0.113.7/y.png) $x$")
    chat.bubbles("bot").wait_for()
    assert "203.0.113.7/x.png" in chat.bubbles("user").inner_text()
    picture = {"name": "<img src=x onerror=alert(1)>.png", "mimeType": "image/png", "buffer": b"no picture"}
    chat.ask("what is it?", picture)
    chat.page.locator("#notice [role=alert]").wait_for()
    assert "is not a picture that can be read" in chat.page.locator("#notice").inner_text()
    assert chat.page.locator("#notice img").count() == 0


def test_two_people_do_not_see_each_other(open_chat: Open, served: Served, pictures: Path) -> None:
    one, other = open_chat(), open_chat(PHONE)
    one.ask(COLOR, pictures / "red.png")
    other.ask(COLOR, pictures / "wide.png")
    says(one.bubbles("bot"), alone(served, "teamlora", pictures / "red.png"))
    says(other.bubbles("bot"), alone(served, "teamlora", pictures / "wide.png"))
    assert one.bubbles("user").count() == other.bubbles("user").count() == 2  # a picture and a question


def test_a_conversation_is_kept_and_opened_again(
    served: Served, open_chat: Open, pictures: Path, tmp_path: Path
) -> None:
    chat = open_chat()
    chat.ask(COLOR, pictures / "red.png")
    says(chat.bubbles("bot"), alone(served, "teamlora", pictures / "red.png"))
    open_part(chat, "Keep this conversation")
    with chat.page.expect_download() as download:
        chat.page.locator("#save-conversation").click()
    download.value.save_as(tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert COLOR in json.dumps(kept)
    again = open_chat()
    open_part(again, "Keep this conversation")
    with again.page.expect_file_chooser() as chooser:
        again.page.locator("#load-conversation").click()
    chooser.value.set_files(tmp_path / "kept.json")
    says(again.bubbles("bot"), chat.bubbles("bot").inner_text())
    again.ask("what shape is it?")
    again.bubbles("bot").nth(1).wait_for()
    assert len(served.engine.requests[-1].query.images) == 1


def test_votes_are_written_down(open_chat: Open, votes: Path) -> None:
    chat = open_chat()
    chat.ask("is the sky blue?")
    chat.bubbles("bot").hover()
    chat.page.get_by_label("Dislike").last.click()
    wait_until(chat, votes.is_file)
    (line,) = votes.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["vote"] == "down" and "is the sky blue?" in line


def test_pictures_are_pasted_and_dropped(served: Served, open_chat: Open, pictures: Path) -> None:
    chat = open_chat()
    for number, (event, place) in enumerate((("paste", "#question textarea"), ("drop", "#question [role=group]"))):
        chat.page.locator(place).evaluate(
            """(place, [event, bytes]) => {
                const data = new DataTransfer(), options = {bubbles: true, cancelable: true};
                data.items.add(new File([new Uint8Array(bytes)], "red.png", {type: "image/png"}));
                place.dispatchEvent(
                    event === "paste"
                        ? new ClipboardEvent("paste", {...options, clipboardData: data})
                        : new DragEvent("drop", {...options, dataTransfer: data})
                );
            }""",
            [event, list((pictures / "red.png").read_bytes())],
        )
        chat.page.locator("#question .thumbnail-item").nth(number).wait_for()
    chat.ask(COLOR)
    chat.bubbles("bot").wait_for()
    assert len(served.engine.requests[-1].query.images) == 2


def test_words_and_colours_change(open_chat: Open) -> None:
    chat = open_chat(color_scheme="light")
    page = chat.page
    letters = "getComputedStyle(document.querySelector('#question textarea')).color"
    light = page.evaluate(letters)
    says(page.locator("#undo"), "Undo")
    page.get_by_label("中文").check()
    says(page.locator("#undo"), "撤销")
    page.locator("#dark").click()
    wait_until(chat, lambda: page.evaluate(letters) != light)


def test_keys_alone_are_enough(open_chat: Open, served: Served) -> None:
    """Shift+Enter breaks a line, Enter sends, Escape stops."""
    chat = open_chat()
    models = served.engine.family.models.values()
    with held_models.endless(*(model.generator for model in models)), held_models.gate() as gate:
        gate.allow(3)
        chat.page.keyboard.type("one")
        chat.page.keyboard.press("Shift+Enter")
        chat.page.keyboard.type("two")
        chat.page.keyboard.press("Enter")
        gate.wait_for(3)
        assert served.engine.requests[-1].query.turns[-1].text == "one\ntwo"
        chat.page.locator("#question .stop-button").wait_for()
        chat.page.keyboard.press("Escape")
        says(chat.page.locator("#notice"), "stopped")
