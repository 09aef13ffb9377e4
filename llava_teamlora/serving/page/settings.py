"""What whoever starts the page decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import Decoding
from llava_teamlora.serving.pictures import PictureLimits

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Names that an example's or an uploaded picture's file may end in; what is in it is looked at as well."""


@dataclass(frozen=True)
class Example:
    """A picture and a question to begin with.

    Attributes:
        picture: its file.
        question: what is asked about it.
    """

    picture: Path
    question: str


@dataclass(frozen=True)
class PageSettings:
    """How the page is served.

    Attributes:
        host: address to listen on.
        port: 0 takes any free one.
        users: name and password of those who may come in; empty lets in everybody who reaches the address.
        share: a public address through Gradio's relay. The one thing here that needs a network.
        decoding: where the sliders stand at first.
        longest_answer: the most that the slider of ``max_new_tokens`` allows.
        examples: shown in an empty conversation.
        log_votes: file that votes are appended to; None has no votes.
        colours: ``system``, ``light`` or ``dark`` at first.
        pictures: limits of one picture.
        max_pictures: of one conversation.
        max_exchanges: questions of one conversation.
        max_question: characters of one question.
        update_s: shortest time between two updates of a page while an answer is being written.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    users: tuple[tuple[str, str], ...] = ()
    share: bool = False
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=512))
    longest_answer: int = 2048
    examples: tuple[Example, ...] = ()
    log_votes: Path | None = None
    colours: str = "system"
    pictures: PictureLimits = field(default_factory=PictureLimits)
    max_pictures: int = 16
    max_exchanges: int = 100
    max_question: int = 20_000
    update_s: float = 0.05


def read_examples(folder: str | Path) -> tuple[Example, ...]:
    """Pictures of a folder, each with the question that stands in the text file of its name.

    Args:
        folder: holds ``shape.png`` and ``shape.txt``, and so on; a picture without a text file is asked to be
            described.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--examples {folder}: no such folder")
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_TYPES)
    if not pictures:
        raise UserError(f"--examples {folder}: holds no picture ({', '.join(PICTURE_TYPES)})")
    return tuple(Example(path, _question(path.with_suffix(".txt"))) for path in pictures)


def _question(file: Path) -> str:
    if not file.is_file():
        return "Describe this picture."
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    if not text:
        raise UserError(f"{file}: is empty; write the question in it, or delete it")
    return text
