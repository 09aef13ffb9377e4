"""The chat page's deeds, without a browser: each handler on the real engine."""

from __future__ import annotations

import asyncio
import gc
import html
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from hostile_files import png_of_zeros
from PIL import Image

from llava_teamlora.generation import Decoding, Query
from llava_teamlora.serving.conversation import Picture, Reply
from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.experts import MEAN
from llava_teamlora.serving.family import load_family
from llava_teamlora.serving.page import Example, PageSettings
from llava_teamlora.serving.page.handlers import Handlers
from llava_teamlora.serving.page.keeping import Keeping
from llava_teamlora.serving.page.layout import lay_out
from llava_teamlora.serving.page.notices import Changes
from llava_teamlora.serving.page.parts import Parts
from llava_teamlora.serving.page.session import Session
from llava_teamlora.serving.page.showing import Showing
from llava_teamlora.serving.page.view import Thumbnails, as_picture, edited_text, shown_text
from llava_teamlora.serving.page.wiring import build_page
from llava_teamlora.serving.tickets import Ticket

WORDS = 12  # tokens of a longest answer here
CONTROLS = ["", 0.0, 1.0, WORDS, 0, False]  # system, temperature, top-p, tokens, seed, gains on both sides


run = asyncio.run


@pytest.fixture(scope="module")
def engine(run_folders: dict[str, Path]) -> Iterator[Engine]:
    with Engine(load_family([str(run_folders["teamlora"]), str(run_folders["lora"])], device="cpu")) as engine:
        yield engine


class Page:
    """The page's parts and deeds, and what one browser sees of them."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.engine, self.settings = engine, PageSettings(update_s=0.0, **settings)
        self.parts: Parts = run(self.laid_out())
        self.showing = Showing(engine.family, self.parts)
        self.deeds = Handlers(engine, self.settings, self.parts, self.showing)
        self.keeping = Keeping(engine, self.settings, self.parts, self.showing)
        self.controls = [engine.family.first.loaded.template.system, *CONTROLS[1:], 1.0, 1.0, 1.0, 1.0]

    async def laid_out(self) -> Parts:
        """In a running loop: where there is none, Gradio makes one and never closes it."""
        with gr.Blocks(analytics_enabled=False):
            return lay_out(list(self.engine.family.models), 4, [(MEAN, MEAN)], self.settings)

    def new_session(self) -> Session:
        return Session(*list(self.engine.family.models)[:2])

    def ask(self, session: Session, text: str, *files: Path, **changed: Any) -> Changes:
        controls = changed.get("controls", self.controls)
        return self.deeds.ask(session, {"text": text, "files": [str(file) for file in files]}, MEAN, *controls)

    def alone(self, session: Session, which: int = 0, decoding: Decoding | None = None) -> str:
        """What the model of a column says to its conversation without the page."""
        side = session.sides[which]
        query = side.conversation.regenerate().query()
        generator = self.engine.family.models[side.model].generator
        return generator.generate([query], decoding or Decoding(WORDS))[0].text


@pytest.fixture(scope="module")
def page(engine: Engine) -> Page:
    return Page(engine)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "shape.png"
    Image.new("RGB", (40, 20), "red").save(file)
    return file


def all_of(changes: Changes) -> list[dict[Any, Any]]:
    async def gather() -> list[dict[Any, Any]]:
        return [change async for change in changes]

    return run(gather())


def given(part: Any) -> dict[str, Any]:
    """What a part's update says."""
    return part._constructor_args[0]


def size_of(file: str | Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def texts(session: Session, which: int = 0) -> list[str | None]:
    return [each.reply and each.reply.text for each in session.sides[which].conversation.exchanges]


def test_an_answer_streams_and_is_what_the_model_says(page: Page, picture: Path) -> None:
    session = page.new_session()
    changes = all_of(page.ask(session, "what color is the shape?", picture))
    chat, question = page.parts.columns[0].chat, page.parts.question
    (reply,) = texts(session)
    assert reply is not None and reply == page.alone(session)
    shown = [change[chat][-1]["content"] for change in changes if change[chat][-1]["role"] == "assistant"]
    assert len(set(shown)) > 2 and all(reply.startswith(text) for text in shown)  # piece by piece
    first, last = given(changes[0][question]), given(changes[-1][question])
    assert first == {"value": {"text": "", "files": []}, "submit_btn": False, "stop_btn": True}
    assert last == {"submit_btn": True, "stop_btn": False}  # what was typed meanwhile stays
    assert [message["role"] for message in changes[-1][chat]] == ["user", "user", "assistant"]  # picture, text, answer
    assert "ltx-" in changes[-1][page.parts.columns[0].strip]
    assert not session.busy and len(session.sides[0].strip or ()) > 0


def test_several_turns_are_told_as_in_training(page: Page, picture: Path) -> None:
    session = page.new_session()
    all_of(page.ask(session, "what color is the shape?", picture))
    last = all_of(page.ask(session, "and its shape?"))[-1]
    assert texts(session)[1] == page.alone(session)
    template = page.engine.family.first.loaded.template
    said = last[page.parts.template]
    assert said == "".join(piece.text for piece in template.segments(_turns(session)))
    assert said.count("<image>") == 1 and "and its shape?" in said


def _turns(session: Session) -> Any:
    from llava_teamlora.data.records import Turn

    turns = []
    for each in session.sides[0].conversation.exchanges:
        assert each.reply is not None
        turns += [Turn("human", "<image>\n" * len(each.pictures) + each.question), Turn("gpt", each.reply.text)]
    return turns


def test_two_models_side_by_side_and_gains_on_the_left_alone(page: Page, picture: Path) -> None:
    session = page.new_session()
    all_of(page.ask(session, "what is it?", picture))
    run(page.deeds.compare(session, True, MEAN))
    run(page.deeds.choose(session, "teamlora", "teamlora", MEAN))
    heavy = [*page.controls[:-4], 2.0, 0.0, 2.0, 0.0]
    all_of(page.ask(session, "are you sure?", controls=heavy))
    left, right = (side.conversation.exchanges[-1].reply for side in session.sides)
    assert left is not None and left.settings.gains == (2.0, 0.0, 2.0, 0.0)
    assert right is not None and right.settings.gains is None
    assert right.text == page.alone(session, 1)
    assert texts(session)[0] == texts(session, 1)[0]  # the right has heard what was said before
    strips = [side.strip for side in session.sides]
    assert strips[0] and not strips[0].omega[..., 1].any() and strips[1] and strips[1].omega[..., 1].any()
    run(page.deeds.choose(session, "teamlora", "lora", MEAN))
    all_of(page.ask(session, "and now?"))
    assert texts(session, 1)[-1] == page.alone(session, 1) and session.sides[1].strip is None


def test_stop_keeps_what_was_said_and_lets_go_of_the_engine(page: Page) -> None:
    session = page.new_session()

    async def stopped() -> None:
        async for _ in page.ask(session, "say much", controls=[*page.controls[:3], 400, *page.controls[4:]]):
            if session.sides[0].said and session.sides[0].ticket is not None:
                tickets.append(session.sides[0].ticket)
                await page.deeds.stop(session)

    tickets: list[Ticket] = []
    run(stopped())
    reply = session.sides[0].conversation.exchanges[0].reply
    whole = page.alone(session, decoding=Decoding(400))
    assert reply is not None and reply.ended == "stopped" and 0 < len(reply.text) < len(whole)
    assert whole.startswith(reply.text) and tickets[0].ended


def test_a_browser_that_goes_takes_its_question_along(page: Page) -> None:
    session = page.new_session()

    async def gone() -> None:
        changes = page.ask(session, "say much", controls=[*page.controls[:3], 400, *page.controls[4:]])
        async for _ in changes:
            if session.sides[0].said and session.sides[0].ticket is not None:
                tickets.append(session.sides[0].ticket)
                break
        await changes.aclose()

    tickets: list[Ticket] = []
    run(gone())
    reply = session.sides[0].conversation.exchanges[0].reply
    assert tickets[0].ended and not session.busy and session.sides[0].ticket is None
    assert reply is not None and reply.ended == "stopped"


def test_regenerate_edit_and_undo(page: Page, picture: Path) -> None:
    session = page.new_session()
    drawn = [*page.controls[:1], 1.5, *page.controls[2:]]
    all_of(page.ask(session, "first", picture, controls=drawn))
    all_of(page.ask(session, "second", controls=drawn))
    before = texts(session)
    change = all_of(page.deeds.again(session, MEAN, *drawn))[-1]
    after = texts(session)
    assert change[page.parts.seed] == 1 and after[0] == before[0] and after[1] != before[1]
    assert after[1] == page.alone(session, decoding=Decoding(WORDS, 1.5, seed=1))
    run(page.deeds.compare(session, True, MEAN))
    all_of(page.deeds.edit(session, 1, 1, "third", MEAN, *page.controls))  # message 1: the text beside the picture
    for which, side in enumerate(session.sides):  # in both columns; what followed is dropped, the picture stays
        assert [each.question for each in side.conversation.exchanges] == ["third"]
        assert len(side.conversation.pictures) == 1 and texts(session, which) == [page.alone(session, which)]
    change = run(page.deeds.undo(session, MEAN))
    box = given(change[page.parts.question])["value"]
    assert box["text"] == "third" and size_of(box["files"][0]) == (40, 20)
    assert not any(side.conversation.exchanges for side in session.sides)
    assert "no answer yet" in run(page.deeds.undo(session, MEAN))[page.parts.notice]


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"no picture", png_of_zeros(20_000, 20_000, rows=1)]
)
def test_a_hostile_picture_is_refused_in_words(page: Page, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "<img src=x onerror=alert(1)>.png"
    file.write_bytes(content)
    session = page.new_session()
    (change,) = all_of(page.ask(session, "what is it?", file))
    notice = change[page.parts.notice]
    assert 'role="alert"' in notice and "onerror" in notice and "<img" not in notice
    assert not session.sides[0].conversation.exchanges and not session.busy


def test_what_cannot_be_asked_is_said_and_changes_nothing(engine: Engine, picture: Path) -> None:
    page = Page(engine, max_exchanges=1, max_pictures=1, max_question=30)
    session = page.new_session()
    told = {
        "write a question": page.ask(session, "  "),
        "31 characters; 30": page.ask(session, "x" * 31),
        "at most 1 pictures": page.ask(session, "two", picture, picture),
        "marks a picture": page.ask(session, "<image> mine"),
        "--max_new_tokens 0": page.ask(session, "none", controls=[*page.controls[:3], 0, *page.controls[4:]]),
    }
    for words, changes in told.items():
        (change,) = all_of(changes)
        assert words in change[page.parts.notice] and page.parts.columns[0].chat not in change
        assert "value" not in given(change[page.parts.question])  # what was typed stays
    all_of(page.ask(session, "first"))
    assert "at most 1 questions" in all_of(page.ask(session, "second"))[0][page.parts.notice]
    assert len(session.sides[0].conversation.exchanges) == 1


def test_a_failure_is_shown_with_its_own_message_and_can_be_asked_again(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = page.new_session()
    generator = page.engine.family.first.generator
    with monkeypatch.context() as broken:
        broken.setattr(generator, "_prefill", lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA out of <memory>")))
        last = all_of(page.ask(session, "hello"))[-1]
    assert "RuntimeError: CUDA out of &lt;memory&gt;" in last[page.parts.notice]
    assert texts(session) == [None] and given(last[page.parts.question])["submit_btn"]
    all_of(page.deeds.again(session, MEAN, *page.controls))
    assert texts(session) == [page.alone(session)]


def test_many_browsers_get_what_each_gets_alone(page: Page, tmp_path: Path) -> None:
    sessions = [page.new_session() for _ in range(6)]

    async def one(number: int, session: Session) -> None:
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (30 + number, 30), (40 * number, 90, 200)).save(file)
        async for _ in page.ask(session, f"question {number}", *[file] * (number % 2)):
            pass

    async def all_at_once() -> None:
        await asyncio.gather(*(one(number, session) for number, session in enumerate(sessions)))

    run(all_at_once())
    for number, session in enumerate(sessions):
        assert [each.question for each in session.sides[0].conversation.exchanges] == [f"question {number}"]
        assert texts(session) == [page.alone(session)]


def test_the_system_prompt_is_trainings_until_changed(page: Page) -> None:
    session = page.new_session()
    all_of(page.ask(session, "hello"))
    assert session.sides[0].conversation.system is None
    last = all_of(page.ask(session, "again", controls=["Be brief.", *page.controls[1:]]))[-1]
    assert last[page.parts.template].startswith("Be brief.") and texts(session)[-1] == page.alone(session)


def test_a_system_prompt_has_a_longest(engine: Engine) -> None:
    page = Page(engine, max_question=100)
    (change,) = all_of(page.ask(page.new_session(), "what?", controls=["x" * 101, *page.controls[1:]]))
    assert "101 characters; 100 are allowed" in change[page.parts.notice]


def test_a_conversation_goes_out_and_comes_back(page: Page, picture: Path, tmp_path: Path) -> None:
    session, other = page.new_session(), page.new_session()
    all_of(page.ask(session, "what is it?", picture))
    saved = run(page.keeping.save(session))[page.parts.files[0]]
    assert Path(saved).name == "teamlora.json"
    change = run(page.keeping.load(other, saved, MEAN))
    assert "opened" in change[page.parts.notice] and texts(other) == texts(session)
    (back,) = other.sides[0].conversation.pictures
    assert back.image.tobytes() == Image.open(picture).convert("RGB").tobytes()
    all_of(page.ask(other, "and?"))
    assert texts(other)[-1] == page.alone(other)
    broken = json.loads(Path(saved).read_text())
    broken["turns"][0]["role"] = "robot"
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(broken))
    change = run(page.keeping.load(session, str(bad), MEAN))
    assert "turns[0].role" in change[page.parts.notice] and len(texts(session)) == 1
    numbers = run(page.keeping.save_numbers(session, kind="json"))[page.parts.files[0]]
    assert numbers.endswith("teamlora.json") and json.loads(Path(numbers).read_text())


def test_votes_are_written_down_where_wished(engine: Engine, picture: Path, tmp_path: Path) -> None:
    log = tmp_path / "votes.jsonl"
    page = Page(engine, log_votes=log)
    session = page.new_session()
    all_of(page.ask(session, "what is it?", picture))
    for liked in (True, False, "Flag", None):  # None: a vote taken back
        run(page.keeping.vote(session, 0, 2, liked))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["vote"] for row in rows] == ["up", "down", "flag"]
    assert "message is not there" in run(page.keeping.vote(session, 0, 9, True))[page.parts.notice]


def test_a_vote_names_the_model_that_answered(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "votes.jsonl"
    page = Page(engine, log_votes=log)
    session = page.new_session()
    all_of(page.ask(session, "what is it?"))
    first, other = session.sides[0].model, list(engine.family.models)[1]
    run(page.deeds.choose(session, other, other, MEAN))
    run(page.keeping.vote(session, 0, 1, True))
    (row,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert row["model"] == first and row["manifest"] == engine.family.models[first].loaded.manifest
    conversation = session.sides[0].conversation
    assert conversation.exchanges[0].reply is not None
    settings = replace(conversation.exchanges[0].reply.settings, model="another")
    session.sides[0].conversation = conversation.regenerate().answered(
        Reply("yes", "stop", settings)
    )  # as out of a file
    assert "another" in run(page.keeping.vote(session, 0, 1, True))[page.parts.notice]
    assert len(log.read_text().splitlines()) == 1


def test_pictures_are_forgotten_with_their_conversation(tmp_path: Path) -> None:
    thumbnails = Thumbnails(str(tmp_path))
    first = Picture("a", Image.new("RGB", (8, 8), "red"))
    gone = weakref.ref(first.image)
    file = thumbnails.path(first)
    assert thumbnails.path(first) == file
    del first
    gc.collect()
    assert gone() is None
    assert thumbnails.path(Picture("b", Image.new("RGB", (8, 8), "blue"))) != file


def test_the_picture_is_shown_as_the_model_gets_it(page: Page, picture: Path) -> None:
    session = page.new_session()
    change = run(page.deeds.look_at(session, {"text": "", "files": [str(picture)]}))
    shown = change[page.parts.prepared]
    assert "40 × 20 → 64 × 64" in shown and "padded" in shown and "data:image/png;base64," in shown
    vision = page.engine.family.first.loaded.vision
    assert vision is not None
    from llava_teamlora.data.images import prepare_image

    seen = as_picture(prepare_image(Image.open(picture), vision.image_processor, "pad"), vision.image_processor)
    mean = [int(channel * 255) for channel in vision.image_processor.image_mean]
    assert all(abs(a - b) <= 1 for a, b in zip(seen.getpixel((0, 0)), mean, strict=True))  # type: ignore[arg-type]
    assert seen.getpixel((32, 32)) == (255, 0, 0)


def test_both_languages(page: Page) -> None:
    session = page.new_session()
    request: Any = SimpleNamespace(headers={"accept-language": "fr, zh-CN;q=0.9, en;q=0.8"})
    change = run(page.keeping.begin(request, session, MEAN))
    assert session.language == "zh" and change[page.parts.language] == "zh"
    change = run(page.keeping.speak(session, "en", MEAN))
    assert change[page.parts.again].value == "Regenerate"
    change = run(page.keeping.speak(session, "zh", MEAN))
    assert change[page.parts.again].value == "重新回答" and change[page.parts.undo].value == "撤销"
    (change,) = all_of(page.ask(session, ""))
    assert "请先写下问题" in change[page.parts.notice]


def test_nobody_waits_for_another_but_in_the_engines_line(engine: Engine, tmp_path: Path) -> None:
    example = Example(tmp_path / "none.png", "what?")
    Image.new("RGB", (8, 8)).save(example.picture)

    async def built() -> gr.Blocks:
        return build_page(engine, PageSettings(examples=(example,), log_votes=tmp_path / "votes"))

    blocks = run(built())
    assert blocks.analytics_enabled is False
    named = {function.name: function for function in blocks.fns.values()}
    assert {"ask", "again", "undo", "clear", "compare", "choose", "stop", "edited", "voted", "chosen"} <= set(named)
    assert all(each.concurrency_limit is None or each.queue is False or each.fn is None for each in blocks.fns.values())


@pytest.mark.parametrize(
    "text", ["<img src=x> a<b 1 < 2", "AT&T &amp; &lt;b> & &#60;", "&copy 1 &ltb> a&note", "plain\n\n  text"]
)
def test_no_text_is_taken_for_html(text: str) -> None:
    shown = shown_text(text)
    assert shown_text("AT&T < Q & A") == "AT&T < Q & A"  # what cannot be taken for anything stays, to be copied
    assert "<i" not in shown and "<b" not in shown and html.unescape(shown) == text
    assert edited_text(shown) == edited_text([{"type": "text", "text": shown}]) == text


def test_pictures_show_small_and_answers_big(page: Page, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    noise = torch.randint(0, 255, (900, 1600, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(big)
    session = page.new_session()
    last = all_of(page.ask(session, "what?", big))[-1]
    assert max(size_of(last[page.parts.columns[0].chat][0]["content"]["path"])) == 768
    (picture,) = session.sides[0].conversation.pictures
    assert picture.image.size == (1600, 900) and isinstance(session.sides[0].conversation.regenerate().query(), Query)
