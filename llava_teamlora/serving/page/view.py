"""What the page shows of a session: messages, the prepared picture, the prompt, the notice. No events here."""

from __future__ import annotations

import base64
import html
import io
import re
import weakref
from html.entities import html5
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import question
from llava_teamlora.serving.page.labels import say

if TYPE_CHECKING:
    from llava_teamlora.data.dataset import VisionFormat
    from llava_teamlora.serving.conversation import Conversation, Picture
    from llava_teamlora.serving.family import Member
    from llava_teamlora.serving.page.session import Session, Side

_THUMBNAIL = 768  # pixels; a conversation's pictures travel to the browser in this size at most
_OLD_ENTITIES = "|".join(name for name in html5 if not name.endswith(";"))  # these count without their semicolon, too
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(rf"&(?=#\w|\w+;|{_OLD_ENTITIES})")
_LONGEST_PROMPT = 4000  # characters of a prompt that are shown


class Thumbnails:
    """Files of pictures as a conversation shows them, each written once. Keeps no picture that nobody else keeps.

    Args:
        folder: one that Gradio serves from.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._written: dict[int, tuple[weakref.ref[Picture], str]] = {}

    def path(self, picture: Picture) -> str:
        """A picture's file."""
        key = id(picture)
        if key not in self._written:
            from gradio.processing_utils import save_pil_to_cache

            small = picture.image.copy()
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
            file = save_pil_to_cache(small, self.folder, "picture", "webp")
            self._written[key] = (weakref.ref(picture, lambda _: self._written.pop(key, None)), file)
        return self._written[key][1]


def messages(side: Side, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """A column as ``gr.Chatbot`` takes it."""
    return [message for message, _ in _numbered(side, thumbnails)]


def exchange_of(side: Side, thumbnails: Thumbnails, message: int) -> int:
    """The exchange that a message of :func:`messages` belongs to."""
    numbered = _numbered(side, thumbnails)
    if not 0 <= message < len(numbered):
        raise UserError("that message is not there any more")
    return numbered[message][1]


def _numbered(side: Side, thumbnails: Thumbnails) -> list[tuple[dict[str, Any], int]]:
    found: list[tuple[dict[str, Any], int]] = []
    for index, exchange in enumerate(side.conversation.exchanges):
        for picture in exchange.pictures:
            file = {"path": thumbnails.path(picture), "alt_text": picture.name}
            found.append(({"role": "user", "content": file}, index))
        found.append(({"role": "user", "content": shown_text(exchange.question)}, index))
        said = side.said if exchange.reply is None else exchange.reply.text
        if said:
            found.append(({"role": "assistant", "content": shown_text(said)}, index))
    return found


def notice(session: Session) -> str:
    """What is worth saying about the newest answers: errors, the place in the line, an end before its time."""
    language, several = session.language, session.comparing
    lines = []
    for side in session.shown:
        name = f"<b>{html.escape(side.model)}</b>: " if several else ""
        last = side.conversation.exchanges[-1].reply if side.conversation.exchanges else None
        if side.error is not None:
            lines.append(_line("error", name + html.escape(in_words(side.error))))
        elif side.ticket is not None and side.position > 0:
            lines.append(_line("status", name + say("waiting", language, position=side.position)))
        elif side.ticket is not None and not side.said:
            lines.append(_line("status", name + say("reading", language)))
        elif last is not None and last.ended == "length":
            lines.append(_line("status", name + say("cut", language)))
        elif last is not None and last.ended == "stopped":
            lines.append(_line("status", name + say("stopped", language)))
    return "".join(lines)


def told(error: Exception) -> str:
    """An error as a notice."""
    return _line("error", html.escape(in_words(error)))


def said_so(text: str) -> str:
    """Good news as a notice."""
    return _line("status", html.escape(text))


def in_words(error: Exception) -> str:
    """What happened: a user's mistake in its own words, all else with its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _line(kind: str, content: str) -> str:
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{content}</div>'


def prepared(picture: Picture | None, vision: VisionFormat | None, language: str) -> str:
    """A picture as a model's vision tower gets it, undone of nothing but the normalisation."""
    if vision is None:
        return f'<p class="hint">{say("prepared_text_only", language)}</p>'
    if picture is None:
        return f'<p class="hint">{say("prepared_none", language)}</p>'
    from llava_teamlora.data.images import prepare_image

    pixels = prepare_image(picture.image, vision.image_processor, vision.aspect_ratio)  # [3, H, W]
    shown = as_picture(pixels, vision.image_processor)
    file = io.BytesIO()
    shown.save(file, "PNG")
    kind = say("prepared_pad" if vision.aspect_ratio == "pad" else "prepared_square", language)
    before, after = (f"{image.width} × {image.height}" for image in (picture.image, shown))
    name = html.escape(picture.name, quote=True)
    return (
        f'<figure class="prepared"><img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode(file.getvalue()).decode()}"><figcaption>{html.escape(picture.name)}: {before} → {after}, '
        f"{kind}, {vision.tokens_per_image} {say('prepared_tokens', language)}</figcaption></figure>"
    )


def as_picture(pixels: torch.Tensor, image_processor: Any) -> Image.Image:
    """Pixel values back to a picture.

    Args:
        pixels: normalised, ``[3, H, W]``.
        image_processor: whose normalisation.
    """
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (image_processor.image_mean, image_processor.image_std)
    )
    colours = ((pixels.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)  # [3, H, W]
    return Image.fromarray(colours.permute(1, 2, 0).numpy())


def prompt(conversation: Conversation, member: Member) -> str:
    """The text that a model reads, in its template; what comes next is written as dots."""
    template = member.loaded.template
    try:
        if conversation.system is not None:
            template = template.with_system(conversation.system)
        turns = []
        for exchange in conversation.exchanges:
            turns.append(question(exchange.question, len(exchange.pictures)))
            if exchange.reply is not None:
                turns.append(Turn("gpt", exchange.reply.text))
        turns = turns or [Turn("human", f"{IMAGE_TOKEN}\n…" if member.loaded.vision is not None else "…")]
        text = "".join(segment.text for segment in template.segments(turns))
    except UserError as error:
        return str(error)
    return text if len(text) <= _LONGEST_PROMPT else "…" + text[-_LONGEST_PROMPT:]


def shown_text(text: str) -> str:
    """A text as ``gr.Chatbot`` shows it letter by letter: it takes all that looks like HTML for HTML."""
    return _TAG.sub("&lt;", _ENTITY.sub("&amp;", text))


def edited_text(value: Any) -> str:
    """What an edited message says, in either of the forms that the browser may send; undoes :func:`shown_text`."""
    if isinstance(value, list):
        return "".join(edited_text(part) for part in value)
    if isinstance(value, dict):
        return edited_text(value.get("text") or value.get("content") or "")
    return html.unescape(str(value))


def short_name(path: str) -> str:
    """A file's name as it may stand in a message: no folders, nothing unprintable, not long."""
    name = re.split(r"[/\\]", path)[-1]
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    return name if len(name) <= 60 else f"{name[:40]}…{name[-16:]}"
