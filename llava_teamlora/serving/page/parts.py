"""All parts of the page that handlers read and write, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.i18n import I18n, I18nData

from llava_teamlora.serving.page.labels import LABELS

I18N = I18n(**{code: {key: texts[at] for key, texts in LABELS.items()} for at, code in enumerate(("en", "zh"))})
"""The labels in the browser's own language, before anybody has chosen one."""

_Words = dict[str, str]


@dataclass
class Column:
    """What belongs to one model: its name, its conversation, its experts at work."""

    box: gr.Column
    model: gr.Dropdown
    chat: gr.Chatbot
    strip: gr.HTML = field(init=False)
    strip_box: gr.Column = field(init=False)


@dataclass
class Parts:
    """All that handlers read and write.

    Attributes:
        worded: each part that has words, and which of its properties says which of the labels.
    """

    session: gr.State
    worded: list[tuple[Any, _Words]] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    gains: list[gr.Slider] = field(default_factory=list)
    only: list[gr.Button] = field(default_factory=list)

    compare: gr.Checkbox = field(init=False)
    language: gr.Radio = field(init=False)
    dark: gr.Button = field(init=False)
    notice: gr.HTML = field(init=False)
    question: gr.MultimodalTextbox = field(init=False)
    camera: gr.Button = field(init=False)
    camera_box: gr.Column = field(init=False)
    webcam: gr.Image = field(init=False)
    again: gr.Button = field(init=False)
    undo: gr.Button = field(init=False)
    clear: gr.Button = field(init=False)
    prepared: gr.HTML = field(init=False)
    temperature: gr.Slider = field(init=False)
    top_p: gr.Slider = field(init=False)
    max_tokens: gr.Slider = field(init=False)
    seed: gr.Number = field(init=False)
    view: gr.Dropdown = field(init=False)
    gains_box: gr.Column = field(init=False)
    gains_both: gr.Checkbox = field(init=False)
    gains_reset: gr.Button = field(init=False)
    gains_summary: gr.HTML = field(init=False)
    matrix: gr.HTML = field(init=False)
    teaching: gr.HTML = field(init=False)
    strip_json: gr.Button = field(init=False)
    strip_csv: gr.Button = field(init=False)
    system: gr.Textbox = field(init=False)
    template: gr.Textbox = field(init=False)
    save: gr.Button = field(init=False)
    load: gr.UploadButton = field(init=False)
    files: list[gr.DownloadButton] = field(default_factory=list)

    def add(self, kind: type[Any], words: _Words | None = None, **options: Any) -> Any:
        """Make a part whose words follow the language.

        Args:
            kind: of part.
            words: property -> name of a label.
            options: its other properties.
        """
        words = words or {}
        part = kind(**{name: I18nData(key) for name, key in words.items()}, **options)
        if words:
            self.worded.append((part, words))
        return part

    def controls(self) -> list[Any]:
        """The parts that say how to answer, in the order in which handlers take them."""
        return [self.system, self.temperature, self.top_p, self.max_tokens, self.seed, self.gains_both, *self.gains]
