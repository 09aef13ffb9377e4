"""A conversation <-> JSON that stands by itself: its pictures are inside, as PNG. docs/chat.md shows the format.

What is read comes from outside and is believed in nothing: every field is checked, a wrong one is named by its place
(``turns[3].role``), and pictures pass the guard of ``pictures.py``.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError, nearest
from llava_teamlora.serving.conversation import Conversation, Exchange, Picture, Reply, Settings

if TYPE_CHECKING:
    from llava_teamlora.serving.pictures import PictureLimits

FORMAT = 1
_DECODING = {"max_new_tokens": int, "temperature": float, "top_p": float, "num_beams": int, "seed": int}


@dataclass(frozen=True)
class FileLimits:
    """How much is read of a conversation.

    Attributes:
        max_bytes: of the whole file; it bounds the bytes of the pictures inside too.
        max_turns: questions and answers together.
        max_pictures: in all.
        max_letters: of one text.
        max_pixels: of all pictures together; a decoded one takes three bytes a pixel.
        picture: of each picture, but for its bytes; None takes the usual ones.
    """

    max_bytes: int = 64 * 2**20
    max_turns: int = 1000
    max_pictures: int = 64
    max_letters: int = 1_000_000
    max_pixels: int = 200_000_000
    picture: PictureLimits | None = None


OWN = FileLimits(max_bytes=2**30, max_pixels=1_000_000_000)
"""Of a file on one's own disk."""


def write_conversation(conversation: Conversation) -> str:
    """The conversation as JSON."""
    fields = conversation_fields(conversation, lambda picture: {"name": picture.name, "data": _data_uri(picture)})
    return json.dumps({"format": FORMAT, **fields}, ensure_ascii=False, indent=1) + "\n"


def conversation_fields(conversation: Conversation, written: Callable[[Picture], dict[str, str]]) -> dict[str, Any]:
    """What JSON holds of a conversation.

    Args:
        conversation: any.
        written: what it holds of a picture.
    """
    turns: list[dict[str, Any]] = []
    for exchange in conversation.exchanges:
        pictures = [written(picture) for picture in exchange.pictures]
        turns.append({"role": "human", "text": exchange.question, "pictures": pictures})
        if exchange.reply is not None:
            turns.append({"role": "gpt", **asdict(exchange.reply)})
    return {
        "system": conversation.system,
        "turns": turns,
        "waiting": [written(picture) for picture in conversation.waiting],
    }


def _data_uri(picture: Picture) -> str:
    file = io.BytesIO()
    picture.image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def read_conversation(content: str | bytes, where: str, limits: FileLimits | None = None) -> Conversation:
    """The conversation in a JSON file.

    Args:
        content: the file's.
        where: what to call it in messages.
        limits: how much of it is read; None takes the usual ones.

    Raises:
        UserError: too large, or no such file; says which field is wrong, and how.
    """
    limits = limits or FileLimits()
    if len(content) > limits.max_bytes:
        raise UserError(f"{where}: has {len(content)} bytes, at most {limits.max_bytes} are read")
    try:
        whole = json.loads(content, parse_constant=_no_number)
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply for a conversation") from error
    except ValueError as error:  # broken JSON, an integer of thousands of digits, or no UTF-8
        raise UserError(f"{where}: is no conversation that was saved here: broken JSON ({error})") from error
    place = _Place(whole, where, "", limits)
    if isinstance(whole, dict) and "format" in whole:  # first, for another format has other fields
        number = place.at(".format", whole["format"])
        if number.number(int) != FORMAT:
            raise number.wrong(f"must be {FORMAT}, the format that this version reads, found {number.shown}")
    fields = place.fields("format", "system", "turns", "waiting", optional=("system", "waiting"))
    seen = _Pictures(place)
    conversation = _exchanges(fields["turns"], seen)
    waiting = seen.read(fields["waiting"])
    system = None if fields["system"].value is None else fields["system"].text()
    return replace(conversation, waiting=waiting, system=system)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


@dataclass(frozen=True)
class _Place:
    """A value in the file, and what its place is called."""

    value: Any
    where: str
    name: str
    limits: FileLimits = field(repr=False)

    def at(self, name: str, value: Any) -> _Place:
        return replace(self, value=value, name=f"{self.name}{name}" if self.name else name.lstrip("."))

    def wrong(self, said: str) -> UserError:
        return UserError(f"{self.where}: {self.name}{': ' if self.name else ''}{said}")

    @property
    def shown(self) -> str:
        """The value for a message, short."""
        kind = {dict: "an object", list: "a list", type(None): "null", bool: str(self.value).lower()}
        return kind.get(type(self.value)) or f"{self.value!r:.60}"

    def fields(self, *names: str, optional: Sequence[str] = ()) -> dict[str, _Place]:
        """An object's fields, all of those names and no others; an optional one that is missing is null."""
        if not isinstance(self.value, dict):
            raise self.wrong(f"must be an object with {', '.join(names)}, found {self.shown}")
        for name in self.value:
            if name not in names:
                raise self.wrong(f"has the unknown field {name!r:.60}{nearest(name, names)}")
        for name in names:
            if name not in self.value and name not in optional:
                raise self.wrong(f"the field {name!r} is missing")
        return {name: self.at(f".{name}", self.value.get(name)) for name in names}

    def entries(self, at_most: int, what: str) -> list[_Place]:
        """A list's entries; of null none."""
        if not isinstance(self.value, list | None):
            raise self.wrong(f"must be a list, found {self.shown}")
        values = self.value or []
        if len(values) > at_most:
            raise self.wrong(f"holds {len(values)} {what}, at most {at_most} are read")
        return [self.at(f"[{i}]", value) for i, value in enumerate(values)]

    def text(self) -> str:
        """A text of characters that can be written down."""
        if not isinstance(self.value, str):
            raise self.wrong(f"must be a text, found {self.shown}")
        if len(self.value) > self.limits.max_letters:
            raise self.wrong(f"has {len(self.value)} characters, at most {self.limits.max_letters} are read")
        try:
            self.value.encode()
        except UnicodeEncodeError as error:
            raise self.wrong(f"holds half a character at {error.start} (an unpaired surrogate)") from error
        return self.value

    def one_of(self, *names: str) -> Any:
        if self.value not in names:
            raise self.wrong(f"must be {' or '.join(map(repr, names))}, found {self.shown}")
        return self.value

    def number(self, kind: type = float) -> Any:
        """A number; where whole ones are wanted, a whole one."""
        wanted = (int,) if kind is int else (int, float)
        if not isinstance(self.value, bool) and isinstance(self.value, wanted):
            with suppress(OverflowError):  # a whole number above all floats
                number = kind(self.value)
                if kind is int or math.isfinite(number):
                    return number
        raise self.wrong(f"must be a {'whole ' if kind is int else ''}number, found {self.shown}")


@dataclass
class _Pictures:
    """Reads a file's pictures, as many and as large as its limits allow in all.

    Attributes:
        whole: the file.
        count: of those read.
        pixels: of those read.
    """

    whole: _Place
    count: int = 0
    pixels: int = 0

    def read(self, entries: _Place) -> tuple[Picture, ...]:
        """Those of one list."""
        limits = self.whole.limits
        places = entries.entries(limits.max_pictures, "pictures")
        self.count += len(places)
        if self.count > limits.max_pictures:
            raise self.whole.wrong(f"holds more than {limits.max_pictures} pictures")
        return tuple(map(self._read, places))

    def _read(self, place: _Place) -> Picture:
        picture = _picture(place)
        self.pixels += picture.image.width * picture.image.height
        if self.pixels > self.whole.limits.max_pixels:
            raise place.wrong(f"with this one the pictures have more than {self.whole.limits.max_pixels} pixels")
        return picture


def _exchanges(turns: _Place, seen: _Pictures) -> Conversation:
    conversation = Conversation()
    if turns.value is None:
        raise turns.wrong("must be a list, found null")
    for turn in turns.entries(turns.limits.max_turns, "turns"):
        role = ("human", "gpt")[conversation.open]
        if not isinstance(turn.value, dict):
            raise turn.wrong(f"must be an object, found {turn.shown}")
        said = turn.at(".role", turn.value.get("role"))
        if said.one_of("human", "gpt") != role:
            raise said.wrong(f"must be {role!r}, found {said.shown}: questions and answers alternate")
        if role == "human":
            fields = turn.fields("role", "text", "pictures", optional=("pictures",))
            exchange = Exchange(_spoken(fields["text"]), seen.read(fields["pictures"]))
            conversation = replace(conversation, exchanges=(*conversation.exchanges, exchange))
        else:
            conversation = conversation.answered(_reply(turn))
    return conversation


def _spoken(place: _Place) -> str:
    if IMAGE_TOKEN in place.text():
        raise place.wrong(f"holds {IMAGE_TOKEN}, which marks a picture's place; leave it out")
    return place.value


def _picture(place: _Place) -> Picture:
    from llava_teamlora.serving.pictures import PictureLimits, read_data_uri

    fields = place.fields("name", "data")
    data = fields["data"]
    if not isinstance(data.value, str):
        raise data.wrong(f"must be a picture as data:image/png;base64,..., found {data.shown}")
    # A photo that came as a small JPEG stands here as a large PNG: its bytes are the file's to bound.
    limits = replace(data.limits.picture or PictureLimits(), max_bytes=data.limits.max_bytes)
    return Picture(fields["name"].text(), read_data_uri(data.value, f"{data.where}: {data.name}", limits))


def _reply(turn: _Place) -> Reply:
    fields = turn.fields("role", "text", "ended", "settings", "time")
    time = fields["time"]
    try:
        datetime.fromisoformat(time.text())
    except ValueError as error:
        raise time.wrong(f"must be a time such as 2026-01-31T12:00:00+00:00, found {time.shown}") from error
    ended = fields["ended"].one_of("stop", "length", "stopped")
    return Reply(_spoken(fields["text"]), ended, _settings(fields["settings"]), time.value)


def _settings(place: _Place) -> Settings:
    from llava_teamlora.generation import Decoding

    fields = place.fields("model", "template", "decoding", "gains", optional=("gains",))
    given = fields["decoding"].fields(*_DECODING)
    values = {name: given[name].number(kind) for name, kind in _DECODING.items()}
    try:
        decoding = Decoding(**values)
    except UserError as error:
        raise fields["decoding"].wrong(str(error)) from error
    gains = None if fields["gains"].value is None else tuple(map(_gain, fields["gains"].entries(1000, "gains")))
    return Settings(fields["model"].text(), fields["template"].text(), decoding, gains)


def _gain(place: _Place) -> float:
    gain = place.number()
    if not math.isfinite(gain) or gain < 0:
        raise place.wrong(f"must be 0 or above, found {place.shown}")
    return gain
