"""Pictures of a benchmark -> small JPEG files. Imports no torch, as everything that only looks at scores."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.types import EncodedPicture, Picture

SIDE = 512
FOLDER = "pictures"
_QUALITY = 88
_TINY = 160  # app.js shows smaller ones enlarged, pixel by pixel
_TINY_QUALITY = 97


@dataclass(frozen=True)
class Shown:
    """A picture as the page has it: a file of the site, or why there is none."""

    file: str | None
    missing: str | None = None


def write_pictures(pictures: Sequence[Picture], site: Path) -> list[Shown]:
    """Write each picture small, once; what lies there from an earlier call is kept.

    Args:
        pictures: all different.
        site: folder; they go to ``site/pictures``.

    Returns:
        One a picture, in order. One that is missing or damaged is no error: the page says so in its place.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        (site / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{site / FOLDER}: cannot be made ({error.strerror})") from error
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(_with_progress(pool.map(lambda picture: _write(picture, site), pictures), len(pictures)))


def _with_progress(results: Iterable[Shown], total: int) -> Iterable[Shown]:
    from rich.console import Console
    from rich.progress import track

    return track(results, "pictures", total, console=Console(stderr=True), transient=True, disable=total < 200)


def _write(picture: Picture, site: Path) -> Shown:
    try:
        name = f"{FOLDER}/{_digest(picture)}.jpg"
        if not (site / name).exists():
            _save(site / name, shrink(picture if isinstance(picture, Path) else io.BytesIO(picture.content())))
        return Shown(name)
    except Unreadable as error:
        return Shown(None, f"{_where(picture)}: {error}")


def _save(path: Path, content: bytes) -> None:
    """Whole or not at all; without ``write_atomically``'s wait for the disk, which thousands of files would feel."""
    aside = path.with_suffix(".part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


class Unreadable(Exception):
    """The picture cannot be shown; the text says why."""


def _where(picture: Picture) -> str:
    return str(picture) if isinstance(picture, Path) else picture.where


def _digest(picture: Picture) -> str:
    """Of the content, or of what stands for it: a file's place, size and time."""
    if isinstance(picture, EncodedPicture):
        return picture.digest
    try:
        status = picture.stat()
    except OSError as error:
        raise Unreadable(error.strerror or "cannot be read") from error
    marks = f"{picture.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    return hashlib.sha256(marks.encode(errors="surrogateescape")).hexdigest()[:16]


def shrink(source: Path | io.BytesIO) -> bytes:
    """A picture as JPEG, at most :data:`SIDE` pixels wide and high, its colours and turn as the model sees them.

    Raises:
        Unreadable: missing, damaged or no picture.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            image.draft("RGB", (SIDE, SIDE))  # JPEG decodes straight to a smaller size
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error)) from error
    small.thumbnail((SIDE, SIDE))
    small.info.clear()
    file = io.BytesIO()
    quality = _QUALITY if max(small.size) >= _TINY else _TINY_QUALITY
    small.save(file, "JPEG", quality=quality, subsampling=0)  # thin coloured lines stay what they are
    return file.getvalue()


def find_pictures(images: Sequence[tuple[str, str]], reloaded: dict[str, Picture]) -> dict[str, Picture | None]:
    """What stands behind the rows' ``image`` texts.

    Args:
        images: key and ``image`` of each row that has one.
        reloaded: pictures by key, of the benchmark's own files.

    Returns:
        By ``image`` text: a file, a picture inside a data file, or None for one inside a file that does not hold it.
    """
    found: dict[str, Picture | None] = {}
    for key, image in images:
        inside, again = image.startswith("base64:"), reloaded.get(key)
        if inside and str(again) != image:
            again = None  # not there, or another edition's
        if found.get(image) is None:
            found[image] = again if inside else again or Path(image)
    return found


def needs_reloading(images: Iterable[str]) -> bool:
    """Whether a picture stands inside a data file, or its path leads nowhere from here."""
    return any(image.startswith("base64:") or not Path(image).exists() for image in set(images))
