"""A session in the page's parts: which part shows what of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache

from llava_teamlora.serving.conversation import Picture
from llava_teamlora.serving.experts import expert_label, gains_summary, matrix_html, read_experts, read_matrices
from llava_teamlora.serving.experts import teaching as experts_taught
from llava_teamlora.serving.family import Family
from llava_teamlora.serving.page import view
from llava_teamlora.serving.page.labels import say
from llava_teamlora.serving.page.parts import Parts
from llava_teamlora.serving.page.session import Session

_NEWEST = 200  # tokens of the strip that are drawn while an answer is being written

Change = dict[Any, Any]


class Showing:
    """How sessions are shown.

    Args:
        family: whose members answer.
        parts: where they are shown.
    """

    def __init__(self, family: Family, parts: Parts) -> None:
        self.members, self.parts = family.models, parts
        self.experts = {name: read_experts(member.loaded) for name, member in self.members.items()}
        self.matrices = {
            name: read_matrices(member.loaded, member.loaded.name if member.kind == "adapter" else None)
            for name, member in self.members.items()
        }
        self.thumbnails = view.Thumbnails(parts.columns[0].chat.GRADIO_CACHE)

    def talk(self, session: Session, look: str, writing: bool = False) -> Change:
        """The columns and the notice; while answers are being written, no more of their strips than is new.

        Args:
            session: what is shown.
            look: which of the layers.
            writing: whether it will be shown again soon.
        """
        change: Change = {self.parts.notice: view.notice(session)}
        for side, column in zip(session.sides, self.parts.columns, strict=True):
            if side in session.shown:
                change[column.chat] = view.messages(side, self.thumbnails)
                change[column.strip] = self._strip(session, side, look, _NEWEST if writing else None)
        return change

    def prompt(self, session: Session) -> Change:
        """What the model on the left reads."""
        left = session.sides[0]
        return {self.parts.template: view.prompt(left.conversation, self.members[left.model])}

    def prepared(self, session: Session, picture: Picture | None = None) -> Change:
        """A picture as the model on the left sees it; without one, the newest of the conversation."""
        left = session.sides[0]
        known = (*left.conversation.pictures, *left.conversation.waiting)
        picture = picture or (known[-1] if known else None)
        vision = self.members[left.model].loaded.vision
        return {self.parts.prepared: view.prepared(picture, vision, session.language)}

    def looked(self, session: Session, look: str) -> Change:
        """The experts with another choice of layers."""
        change: Change = {
            column.strip: self._strip(session, side, look, None)
            for side, column in zip(session.sides, self.parts.columns, strict=True)
        }
        matrices = self.matrices[session.sides[0].model]
        return {**change, self.parts.matrix: matrix_html(matrices, look, session.language)}

    def everything(self, session: Session, look: str) -> Change:
        """All that depends on the models, the language or the number of columns."""
        parts, language = self.parts, session.language
        left, right = session.sides
        experts = self.experts[left.model]
        views = experts.choices(language) or [(say("mean", language), look)]
        look = look if look in dict((value, label) for label, value in views) else views[0][1]
        system = self.members[left.model].loaded.template.system
        change: Change = {
            **self.talk(session, look),
            **self.prompt(session),
            **self.prepared(session),
            **self.looked(session, look),
            parts.view: gr.Dropdown(choices=views, value=look),
            parts.gains_both: gr.Checkbox(visible=session.comparing and self.experts[right.model].k > 0),
            parts.system: gr.Textbox(
                value=left.conversation.system or system or "",
                interactive=bool(system),
                info=say("system_info" if system else "system_none", language),
            ),
            parts.columns[1].box: gr.Column(visible=session.comparing),
            parts.columns[1].strip_box: gr.Column(visible=session.comparing),
            parts.gains_box: gr.Column(visible=experts.k > 0),
            parts.gains_summary: _hint(experts.why_none(language) or gains_summary(None, language)),
            parts.teaching: experts_taught(language),
        }
        for i, slider in enumerate(parts.gains):
            change[slider] = gr.Slider(label=expert_label(i, language), visible=i < experts.k)
        for i, button in enumerate(parts.only):
            change[button] = gr.Button(say("only", language, number=i + 1), visible=i < experts.k)
        for side, column in zip(session.sides, parts.columns, strict=True):
            change[column.model] = side.model
        return change

    def words(self, language: str) -> Change:
        """All labels in a language."""
        return {
            part: part.__class__(**{name: say(key, language) for name, key in words.items()})
            for part, words in self.parts.worded
        }

    def summary(self, session: Session, gains: Sequence[float]) -> Change:
        """What the sliders of the experts say."""
        k = self.experts[session.sides[0].model].k
        return {self.parts.gains_summary: _hint(gains_summary(tuple(gains[:k]), session.language))} if k else {}

    def full_size(self, pictures: Sequence[Picture]) -> list[str]:
        """Files of pictures, as they were shown to the model."""
        folder = self.thumbnails.folder
        return [save_pil_to_cache(picture.image, folder, _stem(picture), "png") for picture in pictures]

    def _strip(self, session: Session, side: Any, look: str, newest: int | None) -> str:
        experts = self.experts[side.model]
        if not experts.k:
            return _hint(experts.why_none(session.language))
        if side.strip is None:
            return ""
        return side.strip.html(experts.or_mean(look), session.language, newest)


def _hint(text: str) -> str:
    return f'<p class="hint">{text}</p>' if text else ""


def _stem(picture: Picture) -> str:
    return picture.name.rpartition(".")[0] or "picture"
