"""Which part calls which handler, and the page put together."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import Any

import gradio as gr

from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.experts import MEAN, only_expert, read_experts
from llava_teamlora.serving.page.handlers import Handlers
from llava_teamlora.serving.page.keeping import Keeping
from llava_teamlora.serving.page.layout import lay_out
from llava_teamlora.serving.page.notices import Changes
from llava_teamlora.serving.page.parts import Parts
from llava_teamlora.serving.page.session import Session
from llava_teamlora.serving.page.settings import PageSettings
from llava_teamlora.serving.page.showing import Change, Showing
from llava_teamlora.serving.page.view import edited_text

_KEEP_UPLOADS_S = 24 * 3600
_FORGET_AFTER_S = 12 * 3600

_STREAMED: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
"""Nobody waits for another here: the one line is the engine's."""
_AT_ONCE: dict[str, Any] = {"show_progress": "hidden", "queue": False}
_DOWNLOAD = "() => window.pressDownloads()"
_COLOURS = "() => window.switchColours()"


def build_page(engine: Engine, settings: PageSettings) -> gr.Blocks:
    """The page, ready to be launched; see ``opening.py``.

    Args:
        engine: answers.
        settings: see there.
    """
    most = max(member.experts for member in engine.family.models.values())
    with gr.Blocks(
        title="TeamLoRA chat",
        analytics_enabled=False,
        delete_cache=(3600, _KEEP_UPLOADS_S),
        fill_width=True,
    ) as page:
        views = read_experts(engine.family.first.loaded).choices() or [(MEAN, MEAN)]
        parts = lay_out(list(engine.family.models), most, views, settings)
        parts.session.time_to_live = _FORGET_AFTER_S
        parts.session.delete_callback = _forget
        showing = Showing(engine.family, parts)
        keeping = Keeping(engine, settings, parts, showing)
        _wire_talk(parts, Handlers(engine, settings, parts, showing))
        _wire_rest(page, parts, keeping, settings)
    return page


def _forget(session: Session) -> None:
    session.stop()


def _wire_talk(parts: Parts, deeds: Handlers) -> None:
    session, look, question = parts.session, parts.view, parts.question
    columns = [part for column in parts.columns for part in (column.chat, column.strip)]
    talk = [parts.notice, question, parts.template, parts.prepared, parts.seed, *columns]
    controls = parts.controls()
    question.submit(deeds.ask, [session, question, look, *controls], talk, **_STREAMED)
    question.stop(deeds.stop, [session], None, **_AT_ONCE)
    question.change(deeds.look_at, [session, question], [parts.prepared, parts.notice],
                    trigger_mode="always_last", **_STREAMED)  # fmt: skip
    again = [parts.again.click, *(column.chat.retry for column in parts.columns)]
    gr.on(again, deeds.again, [session, look, *controls], talk, **_STREAMED)
    undo = [parts.undo.click, *(column.chat.undo for column in parts.columns)]
    gr.on(undo, deeds.undo, [session, look], talk, **_STREAMED)
    clear = [parts.clear.click, *(column.chat.clear for column in parts.columns)]
    gr.on(clear, deeds.clear, [session, look], talk, **_STREAMED)
    for which, column in enumerate(parts.columns):
        edited = [session, look, *controls]
        column.chat.edit(_edited(deeds, which), edited, talk, **_STREAMED)
    everything = _everything(parts)
    parts.compare.input(deeds.compare, [session, parts.compare, look], everything, **_STREAMED)
    models = [column.model for column in parts.columns]
    gr.on([model.input for model in models], deeds.choose, [session, *models, look], everything, **_STREAMED)
    parts.camera.click(lambda: gr.Column(visible=True), None, parts.camera_box, **_AT_ONCE)
    parts.webcam.input(
        deeds.photograph, [session, question, parts.webcam], [question, parts.webcam, parts.camera_box, parts.notice],
        **_STREAMED,
    )  # fmt: skip


def _edited(deeds: Handlers, which: int) -> Any:
    async def edited(data: gr.EditData, session: Session, look: str, *controls: Any) -> Changes:
        index = data.index[0] if isinstance(data.index, tuple | list) else data.index
        changes = deeds.edit(session, which, int(index), edited_text(data.value), look, *controls)
        async with aclosing(changes):
            async for change in changes:
                yield change

    return edited


def _wire_rest(page: gr.Blocks, parts: Parts, keeping: Keeping, settings: PageSettings) -> None:
    session, look = parts.session, parts.view
    everything = _everything(parts)
    page.load(keeping.begin, [session, look], [*everything, parts.language], **_STREAMED)
    parts.language.input(keeping.speak, [session, parts.language, look],
                         [*everything, *(part for part, _ in parts.worded)], **_STREAMED)  # fmt: skip
    parts.dark.click(None, None, None, js=_COLOURS)
    strips = [column.strip for column in parts.columns]
    look.input(keeping.look, [session, look], [*strips, parts.matrix, parts.notice], **_STREAMED)
    if parts.gains:
        gr.on([gain.change for gain in parts.gains], keeping.weigh, [session, *parts.gains],
              [parts.gains_summary, parts.notice], trigger_mode="always_last", **_STREAMED)  # fmt: skip
        for i, button in enumerate(parts.only):
            alone = partial(only_expert, len(parts.gains), i)
            button.click(alone, None, parts.gains, **_AT_ONCE)
        parts.gains_reset.click(lambda: [1.0] * len(parts.gains), None, parts.gains, **_AT_ONCE)
    offered = [*parts.files, parts.notice]
    parts.save.click(keeping.save, [session], offered, **_STREAMED).then(None, js=_DOWNLOAD)
    for button, kind in ((parts.strip_json, "json"), (parts.strip_csv, "csv")):
        numbers = partial(keeping.save_numbers, kind=kind)
        button.click(numbers, [session], offered, **_STREAMED).then(None, js=_DOWNLOAD)
    parts.load.upload(keeping.load, [session, parts.load, look], everything, **_STREAMED)
    for which, column in enumerate(parts.columns):
        if settings.log_votes is not None:
            column.chat.like(_voted(keeping, which), [session], [parts.notice], **_STREAMED)
        if settings.examples:
            column.chat.example_select(_chosen(keeping), None, [parts.question, parts.notice], **_STREAMED)


def _voted(keeping: Keeping, which: int) -> Any:
    async def voted(data: gr.LikeData, session: Session) -> Change:
        index = data.index[0] if isinstance(data.index, tuple | list) else data.index
        return await keeping.vote(session, which, int(index), data.liked)

    return voted


def _chosen(keeping: Keeping) -> Any:
    async def chosen(data: gr.SelectData) -> Change:
        return await keeping.example(int(data.index))

    return chosen


def _everything(parts: Parts) -> list[Any]:
    """What ``Showing.everything`` may change."""
    columns = [part for one in parts.columns for part in (one.model, one.chat, one.strip)]
    return [
        parts.notice, parts.template, parts.prepared, parts.matrix, parts.view, parts.gains_both, parts.system,
        parts.gains_box, parts.gains_summary, parts.teaching, parts.columns[1].box,
        parts.columns[1].strip_box, *parts.gains, *parts.only, *columns,
    ]  # fmt: skip
