"""The parts of the page and where they stand. What they do is in ``handlers.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from llava_teamlora.serving.experts import GAIN_RANGE, MEAN, teaching
from llava_teamlora.serving.page.parts import Column, Parts
from llava_teamlora.serving.page.session import Session
from llava_teamlora.serving.page.settings import PICTURE_TYPES, PageSettings


def lay_out(models: Sequence[str], most_experts: int, views: list[tuple[str, str]], settings: PageSettings) -> Parts:
    """Put the parts into the ``gr.Blocks`` that is open.

    Args:
        models: ids of the members.
        most_experts: of any of them; 0 leaves the experts' part out of sight.
        views: choices of layers at first: label and value.
        settings: see there.
    """
    left, right = models[0], models[1 % len(models)]
    parts = Parts(gr.State(Session(left, right)))
    _header(parts, len(models) > 1)
    with gr.Row(elem_id="page", equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_id="talk"):
            with gr.Row(elem_id="columns", equal_height=False):
                for side, model in (("left", left), ("right", right)):
                    parts.columns.append(_column(parts, side, model, models, settings))
            _asking(parts)
            _strips(parts, most_experts > 0)
        with gr.Column(scale=3, min_width=320, elem_id="settings"):
            with parts.add(gr.Accordion, {"label": "prepared"}, open=True):
                parts.prepared = gr.HTML(elem_id="prepared")
            _experts(parts, most_experts, views)
            _answers(parts, settings)
            _prompt(parts)
            _files(parts)
    return parts


def _header(parts: Parts, several: bool) -> None:
    with gr.Row(elem_id="header"):
        with gr.Column(scale=1, min_width=260, elem_id="names"):
            parts.add(gr.Markdown, {"value": "title"}, elem_id="title")
            parts.add(gr.Markdown, {"value": "subtitle"}, elem_id="subtitle")
        with gr.Row(elem_id="tools"):
            parts.compare = parts.add(
                gr.Checkbox, {"label": "compare"}, elem_id="compare", container=False, visible=several, min_width=100
            )
            parts.language = parts.add(
                gr.Radio,
                {"label": "language"},
                choices=[("English", "en"), ("中文", "zh")],
                value="en",
                show_label=False,
                container=False,
                elem_id="language",
                min_width=100,
            )
            parts.dark = parts.add(gr.Button, {"value": "colours"}, elem_id="dark", size="sm", min_width=100)


def _column(parts: Parts, side: str, model: str, models: Sequence[str], settings: PageSettings) -> Column:
    first = side == "left"
    with gr.Column(visible=first, min_width=300, elem_id=f"column-{side}") as box:
        name = parts.add(
            gr.Dropdown,
            {"label": "model" if first else "model_right"},
            choices=list(models),
            value=model,
            elem_id=f"model-{side}",
            filterable=False,
        )
        chat = parts.add(
            gr.Chatbot,
            {"label": "conversation", "placeholder": "placeholder"},
            elem_id=f"chat-{side}",
            height="calc(100vh - 360px)",
            min_height=300,
            show_label=False,
            editable="user",
            buttons=["copy"],
            render_markdown=False,  # what is read is what was said, letter by letter
            feedback_options=("Like", "Dislike", "Flag"),
            group_consecutive_messages=False,  # in a group with a picture, Gradio cannot send off an edited question
            examples=_examples(settings) if first else None,
        )
    return Column(box, name, chat)


def _strips(parts: Parts, some: bool) -> None:
    with gr.Row(elem_id="strips", equal_height=False, visible=some):
        for side, column in zip(("left", "right"), parts.columns, strict=True):
            with gr.Column(visible=side == "left", min_width=300) as column.strip_box:
                with parts.add(gr.Accordion, {"label": f"experts_{side}"}, open=True):
                    column.strip = gr.HTML(elem_id=f"experts-{side}")


def _examples(settings: PageSettings) -> list[Any] | None:
    return [
        {"text": example.question, "display_text": example.question, "icon": str(example.picture)}
        for example in settings.examples
    ] or None


def _asking(parts: Parts) -> None:
    parts.notice = gr.HTML(elem_id="notice")
    parts.question = parts.add(
        gr.MultimodalTextbox,
        {"label": "question", "placeholder": "question_hint"},
        elem_id="question",
        show_label=False,
        file_types=list(PICTURE_TYPES),
        file_count="multiple",
        lines=1,
        max_lines=8,
        autofocus=True,
        max_plain_text_length=10**9,  # a long text stays a text
        html_attributes=gr.InputHTMLAttributes(spellcheck=False),
    )
    with gr.Row(elem_id="deeds"):
        for name in ("again", "undo", "clear", "camera"):
            button = parts.add(gr.Button, {"value": name}, elem_id=name, size="sm", min_width=90)
            setattr(parts, name, button)
    with gr.Column(visible=False, elem_id="camera-box") as parts.camera_box:
        parts.webcam = parts.add(
            gr.Image, {"label": "camera"}, sources=["webcam"], type="filepath", elem_id="webcam", height=320
        )


def _answers(parts: Parts, settings: PageSettings) -> None:
    start = settings.decoding
    with parts.add(gr.Accordion, {"label": "answers"}, open=True):
        parts.temperature = parts.add(
            gr.Slider,
            {"label": "temperature", "info": "temperature_info"},
            minimum=0.0,
            maximum=2.0,
            step=0.05,
            value=start.temperature,
            elem_id="temperature",
        )
        parts.top_p = parts.add(
            gr.Slider,
            {"label": "top_p", "info": "top_p_info"},
            minimum=0.05,
            maximum=1.0,
            step=0.05,
            value=start.top_p,
            elem_id="top-p",
        )
        parts.max_tokens = parts.add(
            gr.Slider,
            {"label": "max_tokens"},
            minimum=1,
            maximum=max(settings.longest_answer, start.max_new_tokens),
            step=1,
            value=start.max_new_tokens,
            elem_id="max-tokens",
        )
        parts.seed = parts.add(
            gr.Number,
            {"label": "seed", "info": "seed_info"},
            value=start.seed,
            precision=0,
            minimum=0,
            maximum=2**31 - 1,
            elem_id="seed",
        )


def _experts(parts: Parts, most_experts: int, views: list[tuple[str, str]]) -> None:
    low, high, step = GAIN_RANGE
    with parts.add(gr.Accordion, {"label": "experts"}, open=most_experts > 0):
        parts.gains_summary = gr.HTML(elem_id="gains-summary")
        with gr.Column(visible=most_experts > 0) as parts.gains_box:
            parts.view = parts.add(
                gr.Dropdown, {"label": "block"}, choices=views, value=MEAN, elem_id="expert-layer", filterable=False
            )
            parts.add(gr.Markdown, {"value": "gains"}, elem_classes=["part-title"])
            parts.add(gr.Markdown, {"value": "gains_info"}, elem_classes=["hint"])
            for i in range(most_experts):
                slider = gr.Slider(
                    label=f"{i + 1}", minimum=low, maximum=high, step=step, value=1.0, elem_id=f"gain-{i}"
                )
                parts.gains.append(slider)
            with gr.Row(elem_id="gain-presets"):
                for i in range(most_experts):
                    parts.only.append(gr.Button(f"{i + 1}", elem_id=f"gain-only-{i}", size="sm", min_width=60))
            with gr.Row():
                parts.gains_reset = parts.add(gr.Button, {"value": "gains_reset"}, elem_id="gains-reset", size="sm")
                parts.gains_both = parts.add(
                    gr.Checkbox, {"label": "gains_both"}, elem_id="gains-both", container=False, visible=False
                )
            with parts.add(gr.Accordion, {"label": "matrix"}, open=False):
                parts.matrix = gr.HTML(elem_id="interaction")
            with parts.add(gr.Accordion, {"label": "teaching"}, open=False):
                parts.teaching = gr.HTML(teaching("en"), elem_id="teaching")
            with gr.Row():
                for name, size in (("strip_json", "sm"), ("strip_csv", "sm")):
                    made = parts.add(gr.Button, {"value": name}, elem_id=name.replace("_", "-"), size=size)
                    setattr(parts, name, made)


def _prompt(parts: Parts) -> None:
    with parts.add(gr.Accordion, {"label": "prompt"}, open=False):
        parts.system = parts.add(
            gr.Textbox, {"label": "system", "info": "system_info"}, lines=3, max_lines=12, elem_id="system-prompt"
        )
        parts.template = parts.add(
            gr.Textbox,
            {"label": "template"},
            lines=4,
            max_lines=16,
            interactive=False,
            elem_id="template",
            elem_classes=["mono"],
        )


def _files(parts: Parts) -> None:
    with parts.add(gr.Accordion, {"label": "files"}, open=False):
        with gr.Row():
            parts.save = parts.add(gr.Button, {"value": "save"}, elem_id="save-conversation", size="sm")
            parts.load = parts.add(
                gr.UploadButton,
                {"label": "load"},
                elem_id="load-conversation",
                size="sm",
                file_types=[".json"],
                file_count="single",
                type="filepath",
            )
    # Nobody sees these: the buttons above fill them, and the page then presses them.
    parts.files = [gr.DownloadButton("", visible="hidden", elem_id=f"file-{side}") for side in ("left", "right")]
