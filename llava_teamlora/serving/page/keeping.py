"""What is kept of a conversation: files that go out and come in, votes; and how the page looks to its reader."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from llava_teamlora.errors import UserError
from llava_teamlora.serving.conversation import Conversation
from llava_teamlora.serving.conversation_file import FileLimits, read_conversation, write_conversation
from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.page import view
from llava_teamlora.serving.page.handlers import Box
from llava_teamlora.serving.page.labels import preferred, say
from llava_teamlora.serving.page.notices import told
from llava_teamlora.serving.page.parts import Parts
from llava_teamlora.serving.page.session import Session, Side
from llava_teamlora.serving.page.settings import PageSettings
from llava_teamlora.serving.page.showing import Change, Showing
from llava_teamlora.serving.votes import Kind, Vote, log_vote

_VOTES: dict[bool | str, Kind] = {True: "up", False: "down", "Flag": "flag"}


class Keeping:
    """Deeds beside the conversation.

    Args:
        engine: whose members have answered.
        settings: limits and the like.
        parts: what is read and written.
        showing: how a session is shown in the parts.
    """

    def __init__(self, engine: Engine, settings: PageSettings, parts: Parts, showing: Showing) -> None:
        self.engine, self.settings, self.parts, self.showing = engine, settings, parts, showing

    @told
    async def begin(self, request: gr.Request, session: Session, look: str) -> Change:
        """A browser has come: speak its language."""
        session.language = preferred(request.headers.get("accept-language"))
        return {**self.showing.everything(session, look), self.parts.language: session.language}

    @told
    async def speak(self, session: Session, language: str, look: str) -> Change:
        """Another language for all labels."""
        session.language = language
        return {**self.showing.words(language), **self.showing.everything(session, look)}

    @told
    async def look(self, session: Session, look: str) -> Change:
        """Other layers of the experts."""
        return self.showing.looked(session, look)

    @told
    async def weigh(self, session: Session, *gains: float) -> Change:
        """Say what the experts' sliders mean."""
        return self.showing.summary(session, gains)

    @told
    async def save(self, session: Session) -> Change:
        """The conversation of each column as a file."""
        sides = [side for side in session.shown if side.conversation.exchanges]
        return await self._offer(session, sides, "json", lambda side: write_conversation(side.conversation))

    @told
    async def save_numbers(self, session: Session, kind: str) -> Change:
        """The experts' participation in the newest answer of each column as a file."""

        def numbers(side: Side) -> str:
            assert side.strip is not None
            return side.strip.to_json(side.model) if kind == "json" else side.strip.to_csv()

        return await self._offer(session, [side for side in session.shown if side.strip], kind, numbers)

    async def _offer(self, session: Session, sides: list[Side], kind: str, content: Any) -> Change:
        if not sides:
            raise UserError(say("nothing_again", session.language))
        folder = Path(tempfile.mkdtemp(dir=self.showing.thumbnails.folder))
        change: Change = {button: None for button in self.parts.files}
        for button, side in zip(self.parts.files, sides, strict=False):
            name = view.short_name(side.model.replace("/", "-"))
            file = folder / f"{name}.{kind}"
            text = await asyncio.to_thread(content, side)
            await asyncio.to_thread(file.write_text, text, encoding="utf-8")
            change[button] = str(file)
        return change

    @told
    async def load(self, session: Session, file: str, look: str) -> Change:
        """A conversation out of a file, in every column in sight."""
        if session.busy:
            raise UserError(say("busy", session.language))
        limits, name = self.settings, view.short_name(file)
        most = FileLimits(max_turns=2 * limits.max_exchanges, max_pictures=limits.max_pictures, picture=limits.pictures)
        if Path(file).stat().st_size > most.max_bytes:
            raise UserError(f"{name}: is larger than {most.max_bytes / 2**20:.0f} MiB")
        read: Conversation = await asyncio.to_thread(lambda: read_conversation(Path(file).read_bytes(), name, most))
        for side in session.shown:
            side.conversation, side.strip, side.error = read, None, None
        change = self.showing.everything(session, look)
        return {**change, self.parts.notice: view.said_so(say("loaded", session.language))}

    @told
    async def vote(self, session: Session, which: int, message: int, liked: bool | str) -> Change:
        """Write a vote for an answer down."""
        side = session.sides[which]
        index = view.exchange_of(side, self.showing.thumbnails, message)
        kind = _VOTES.get(liked)
        if kind is None or self.settings.log_votes is None:  # taken back: what is written stays written
            return {}
        reply = side.conversation.exchanges[index].reply
        answered = side.model if reply is None else reply.settings.model  # others may be chosen since
        if answered not in self.engine.family.models:
            raise UserError(say("foreign_vote", session.language, model=answered))
        vote = Vote(kind, side.conversation, index, self.engine.family.models[answered].loaded.manifest)
        await asyncio.to_thread(log_vote, self.settings.log_votes, vote)
        return {self.parts.notice: view.said_so(say("voted", session.language))}

    @told
    async def example(self, index: int) -> Change:
        """Put an example into the box."""
        example = self.settings.examples[index]
        from gradio.processing_utils import save_file_to_cache

        file = save_file_to_cache(str(example.picture), self.showing.thumbnails.folder)
        box: Box = {"text": example.question, "files": [file]}
        return {self.parts.question: gr.MultimodalTextbox(box)}
