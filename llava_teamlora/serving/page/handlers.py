"""What happens when something on the page is touched.

Every handler gets the browser's own session and gives back what changed. A mistake ends in the notice, in words.
``wiring.py`` says which part calls which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import Decoding
from llava_teamlora.serving.conversation import Conversation, Picture, Settings
from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.experts import Strip, used_gains
from llava_teamlora.serving.page import view
from llava_teamlora.serving.page.labels import say
from llava_teamlora.serving.page.notices import Changes, told, told_while_writing
from llava_teamlora.serving.page.parts import Parts
from llava_teamlora.serving.page.session import Asked, Session, Side
from llava_teamlora.serving.page.settings import PageSettings
from llava_teamlora.serving.page.showing import Change, Showing
from llava_teamlora.serving.pictures import read_picture

_SETTLED_WITHIN_S = 30.0

Box = dict[str, Any]
"""What stands in the question's box: ``text`` and ``files``."""


class Handlers:
    """The deeds of a conversation.

    Args:
        engine: who answers.
        settings: limits and the like.
        parts: what is read and written.
        showing: how a session is shown in the parts.
    """

    def __init__(self, engine: Engine, settings: PageSettings, parts: Parts, showing: Showing) -> None:
        self.engine, self.settings, self.parts, self.showing = engine, settings, parts, showing

    @told_while_writing
    async def ask(self, session: Session, box: Box, look: str, *controls: Any) -> Changes:
        """Answer what stands in the box."""
        self._idle(session)
        text = self._question(box["text"] or "", session)
        pictures = await asyncio.to_thread(self.read, box["files"])
        asked = []
        for side in session.shown:
            free = side.conversation.undo() if side.conversation.open else side.conversation  # one that failed goes
            asked.append(self._asked(session, side, free.show(*pictures).ask(text), controls))
        async with aclosing(self._answers(session, asked, look, {"text": "", "files": []})) as changes:
            async for change in changes:
                yield change

    @told_while_writing
    async def again(self, session: Session, look: str, *controls: Any) -> Changes:
        """Answer the last question once more; where words are drawn, with the next seed."""
        await self._settle(session)
        sides = [side for side in session.shown if side.conversation.exchanges]
        if not sides:
            raise UserError(say("nothing_again", session.language))
        tried, seed = _next_seed(controls, sides)
        asked = [self._asked(session, side, side.conversation.regenerate(), tried) for side in sides]
        async with aclosing(self._answers(session, asked, look)) as changes:
            async for change in changes:
                yield {**change, self.parts.seed: seed}

    @told_while_writing
    async def edit(self, session: Session, which: int, message: int, text: str, look: str, *controls: Any) -> Changes:
        """Ask a question in other words, in every column that it stands in; what followed it is dropped."""
        await self._settle(session)
        text = self._question(text, session)
        side = session.sides[which]
        index = view.exchange_of(side, self.showing.thumbnails, message)
        asked = [
            self._asked(session, other, other.conversation.edit(at, text), controls)
            for other, at in session.alike(side, index)
        ]
        async with aclosing(self._answers(session, asked, look)) as changes:
            async for change in changes:
                yield change

    async def stop(self, session: Session) -> None:
        """Let go of the answers being written; who waits for them shows the end."""
        session.stop()

    @told
    async def undo(self, session: Session, look: str) -> Change:
        """Take the last question back, into the box, to be asked in another way."""
        await self._settle(session)
        sides = [side for side in session.shown if side.conversation.exchanges]
        if not sides:
            raise UserError(say("nothing_again", session.language))
        last = sides[0].conversation.exchanges[-1]
        for side in sides:
            side.conversation, side.strip, side.error = side.conversation.undo(), None, None
        files = await asyncio.to_thread(self.showing.full_size, last.pictures)
        box = gr.MultimodalTextbox({"text": last.question, "files": files})
        return {**self.showing.talk(session, look), **self.showing.prompt(session), self.parts.question: box}

    @told
    async def clear(self, session: Session, look: str) -> Change:
        """Forget the conversation."""
        await self._settle(session)
        for side in session.sides:
            side.conversation, side.strip, side.error = side.conversation.clear().unshow(), None, None
        return {**self.showing.talk(session, look), **self.showing.prompt(session), **self.showing.prepared(session)}

    @told
    async def compare(self, session: Session, comparing: bool, look: str) -> Change:
        """Show a second column, which has heard the same so far; or take it away."""
        await self._settle(session)
        session.comparing = comparing
        left, right = session.sides
        right.conversation, right.strip, right.error = left.conversation, None, None
        return self.showing.everything(session, look)

    @told
    async def choose(self, session: Session, left: str, right: str, look: str) -> Change:
        """Have other models answer from now on."""
        await self._settle(session)
        for side, model in zip(session.sides, (left, right), strict=True):
            if side.model != model:
                side.model, side.strip, side.error = model, None, None
        return self.showing.everything(session, look)

    @told
    async def look_at(self, session: Session, box: Box) -> Change:
        """Show how the picture in the box will be prepared."""
        files = [str(file) for file in box["files"]] if box else []
        if files == session.looked_at:
            return {}
        session.looked_at = files
        pictures = await asyncio.to_thread(self.read, files[:1])
        return self.showing.prepared(session, pictures[0] if pictures else None)

    @told
    async def photograph(self, session: Session, box: Box, photo: str | None) -> Change:
        """Put what the camera took into the box."""
        if photo is None:
            return {}
        files = [*(str(file) for file in box["files"]), photo]
        return {
            self.parts.question: gr.MultimodalTextbox({"text": box["text"], "files": files}),
            self.parts.webcam: None,
            self.parts.camera_box: gr.Column(visible=False),
        }

    def read(self, files: Sequence[str]) -> tuple[Picture, ...]:
        """Uploaded files as pictures.

        Raises:
            UserError: too large, no picture that is taken, or broken.
        """
        limits = self.settings.pictures
        found = []
        for file in files:
            name = view.short_name(str(file))
            if Path(file).stat().st_size > limits.max_bytes:
                raise UserError(f"{name}: is larger than {limits.max_bytes / 2**20:.0f} MiB")
            found.append(Picture(name, read_picture(Path(file).read_bytes(), name, limits)))
        return tuple(found)

    async def _answers(self, session: Session, asked: Sequence[Asked], look: str, box: Box | None = None) -> Changes:
        """Have questions answered, and show it as it goes."""
        question = self.parts.question
        begun = False
        async with aclosing(session.answer(self.engine, asked, self.settings.update_s)) as news:
            async for _ in news:
                change = self.showing.talk(session, look, writing=True)
                if not begun:  # only now is it certain that they can be asked: what was typed may go
                    stoppable = partial(gr.MultimodalTextbox, submit_btn=False, stop_btn=True)
                    change[question] = stoppable() if box is None else stoppable(value=box)
                    begun = True
                yield change
        yield {
            **self.showing.talk(session, look),
            **self.showing.prompt(session),
            question: gr.MultimodalTextbox(submit_btn=True, stop_btn=False),
        }

    def _asked(self, session: Session, side: Side, conversation: Conversation, controls: Sequence[Any]) -> Asked:
        system, temperature, top_p, max_tokens, seed, both, *gains = controls
        settings, language = self.settings, session.language
        if len(conversation.exchanges) > settings.max_exchanges:
            raise UserError(say("many_exchanges", language, allowed=settings.max_exchanges))
        if len(conversation.pictures) > settings.max_pictures:
            raise UserError(say("many_pictures", language, allowed=settings.max_pictures))
        loaded = self.engine.family.models[side.model].loaded
        if loaded.vision is None and conversation.pictures:
            raise UserError(say("no_text_pictures", language, model=side.model))
        first = self.engine.family.models[session.sides[0].model].loaded.template
        # None where the box is not filled yet, or the template has no place for a system prompt.
        changed = None if system is None or not first.system or system == first.system else str(system)
        self._short_enough(changed or "", session)
        experts = self.showing.experts[side.model]
        weighed = used_gains(gains[: experts.k]) if experts.k and (side is session.sides[0] or both) else None
        decoding = Decoding(int(max_tokens), float(temperature), float(top_p), seed=int(seed or 0))
        return Asked(
            side,
            replace(conversation, system=changed),
            Settings(side.model, loaded.template.name, decoding, weighed),
            Strip(experts, weighed) if experts.k else None,
        )

    def _question(self, text: str, session: Session) -> str:
        if not text.strip():
            raise UserError(say("nothing", session.language))
        return self._short_enough(text, session)

    def _short_enough(self, text: str, session: Session) -> str:
        if len(text) > self.settings.max_question:
            values = {"found": len(text), "allowed": self.settings.max_question}
            raise UserError(say("long_question", session.language, **values))
        return text

    def _idle(self, session: Session) -> None:
        if session.busy:
            raise UserError(say("busy", session.language))

    async def _settle(self, session: Session) -> None:
        """Stop what is being answered, and wait until it has ended."""
        session.stop()
        waited = 0.0
        while session.busy:
            if waited > _SETTLED_WITHIN_S:
                self._idle(session)
            await asyncio.sleep(0.02)
            waited += 0.02


def _next_seed(controls: Sequence[Any], sides: Sequence[Side]) -> tuple[list[Any], int]:
    """The controls for another try: greedy answers and those with a new seed stay, others get the next seed."""
    changed = list(controls)
    temperature, seed = float(controls[1]), int(controls[4] or 0)
    used = {side.conversation.exchanges[-1].reply for side in sides}
    if temperature > 0 and any(reply is not None and reply.settings.decoding.seed == seed for reply in used):
        seed += 1
    changed[4] = seed
    return changed, seed
