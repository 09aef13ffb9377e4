"""Picture files -> pixel values.

In: paths. Out: ``[3, H, W]`` float tensors. The steps are LLaVA's (``process_images``): RGB, then either pad to
a square with the processor's mean colour or keep the shape, then the tower's own resize, crop and normalise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image, UnidentifiedImageError

from llava_teamlora.data.records import Record
from llava_teamlora.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

ASPECT_RATIOS = ("pad", "square")
"""``pad``: centre on a mean-coloured square first. ``square``: straight to the tower's resize and crop."""

_IN_LINE = 4096
"""Calls that wait for a thread at once."""


def load_image(path: str | Path) -> Image.Image:
    """Decode a picture to RGB as LLaVA does: what is see-through shows its own colour, EXIF does not turn it.

    Raises:
        UserError: missing, unreadable, truncated or oversized file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder, not a picture' if path.is_dir() else 'no such picture'}")
    return _decode(path, str(path))


def decode_image(content: bytes, where: str) -> Image.Image:
    """As :func:`load_image`, of a picture file's bytes.

    Args:
        content: the file's bytes.
        where: its place, for the message.

    Raises:
        UserError: truncated, oversized or no picture.
    """
    return _decode(io.BytesIO(content), where)


def _decode(file: Path | io.BytesIO, where: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            picture = image.convert("RGB")
            # The note of a see-through colour outlives the conversion, and transformers would paint it white.
            picture.info.pop("transparency", None)
            return picture
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a readable picture ({error})") from error


def pad_to_square(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Centre the picture on a square of its longer side."""
    side = max(image.size)
    if image.width == image.height:
        return image
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def prepare_image(image: Image.Image, image_processor: Any, aspect_ratio: str) -> torch.Tensor:
    """One RGB picture as the vision tower wants it.

    Args:
        image: RGB picture.
        image_processor: transformers image processor with ``image_mean``.
        aspect_ratio: one of :data:`ASPECT_RATIOS`.

    Returns:
        Pixel values ``[3, H, W]``, float32.
    """
    if aspect_ratio == "pad":
        # int(), not round(): LLaVA's background is (122, 116, 104) for CLIP's mean.
        red, green, blue = (int(channel * 255) for channel in image_processor.image_mean)
        image = pad_to_square(image, (red, green, blue))
    return image_processor(image, return_tensors="pt")["pixel_values"][0]


def check_aspect_ratio(aspect_ratio: str) -> None:
    """Refuse an unknown ``--image_aspect_ratio``.

    Raises:
        UserError: not one of :data:`ASPECT_RATIOS`.
    """
    if aspect_ratio not in ASPECT_RATIOS:
        raise UserError(f"--image_aspect_ratio {aspect_ratio!r} is not one of {', '.join(ASPECT_RATIOS)}")


def check_images(
    records: Sequence[Record],
    folder: str | Path | None,
    *,
    progress: Callable[[int], object] | None = None,
    threads: int = 16,
    decode_up_to: int = 20_000,
    shown: int = 5,
) -> int:
    """See, before a model is loaded, that every picture is there and can be read.

    Of few pictures all is decoded. Of very many only the header is looked at, which finds what is missing or no
    picture at all, but not a file whose end is cut off.

    Args:
        records: checked records.
        folder: picture folder (``--image_folder``); may be None when no record has a picture.
        progress: called with 1 for every picture looked at.
        threads: files opened at once.
        decode_up_to: most pictures to decode whole.
        shown: how many offenders the message names.

    Returns:
        Number of different pictures.

    Raises:
        UserError: naming the first offenders and their number.
    """
    users: dict[str, Record] = {}
    for record in records:
        for image in record.images:
            users.setdefault(image, record)
    if not users:
        return 0
    root = picture_folder(folder, next(iter(users.values())))
    decode = len(users) <= decode_up_to
    problems = in_threads(lambda name: _problem(root / name, decode), list(users), progress, threads)
    bad = [
        f"{user.where}: {root / name}: {problem}"
        for (name, user), problem in zip(users.items(), problems, strict=True)
        if problem is not None
    ]
    if bad:
        more = f"; and {len(bad) - shown} more" if len(bad) > shown else ""
        raise UserError(f"{len(bad)} of {len(users)} pictures cannot be used: {'; '.join(bad[:shown])}{more}")
    return len(users)


def in_threads(
    function: Callable[[T], R], items: Sequence[T], progress: Callable[[int], object] | None = None, threads: int = 16
) -> list[R]:
    """Call a function that waits for files or decodes (and so lets other threads run) on each item, in order.

    Ctrl-C ends it at once: nothing that waits in line is begun any more.

    Args:
        function: of one item; must not raise.
        items: what to call it with.
        progress: called with 1 after each item.
        threads: calls at once.
    """
    results: list[R] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for start in range(0, len(items), _IN_LINE):
            for result in pool.map(function, items[start : start + _IN_LINE]):
                results.append(result)
                if progress is not None:
                    progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def picture_folder(folder: str | Path | None, first: Record) -> Path:
    """``--image_folder``, if it is one.

    Raises:
        UserError: none is given though ``first`` has a picture, or it is not there.
    """
    if folder is None:
        raise UserError(f"{first.where}: has a picture, but no --image_folder is given")
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder (--image_folder)")
    return Path(folder)


def _problem(path: Path, decode: bool) -> str | None:
    if not path.is_file():
        return "no such picture"
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"not a readable picture ({error})" if "cannot identify" not in str(error) else "not a picture"
