"""The guard for pictures from outside: bytes, data URIs and local files -> RGB pictures, or an error in words.

What a picture file is, is decided by its content, never by its name or declared type; its size in pixels by its header,
before anything is decoded; and a local file is read only where it truly lies under a folder that is allowed.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from llava_teamlora.data.images import decode_image
from llava_teamlora.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Pillow's names of the formats that are read. A JPEG of several views (MPO, as some phones write) shows its first."""

_ALLOWED = "PNG, JPEG, WebP, BMP and GIF pictures are taken"
_DATA = re.compile(r"data:([^,]*),", re.IGNORECASE)
_SHOWN = 80  # characters of a place that a message repeats


@dataclass(frozen=True)
class PictureLimits:
    """What a picture may weigh.

    Attributes:
        max_bytes: of the file.
        max_pixels: of the picture; a decoded one takes three bytes a pixel.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000

    @property
    def max_side(self) -> int:
        """Longest side in pixels: a picture is padded to a square, which must not be much larger than the rest."""
        return math.isqrt(2 * self.max_pixels)


@dataclass(frozen=True)
class PictureSources:
    """Where pictures may come from by an address: data URIs always, the rest as allowed.

    Attributes:
        limits: of each picture.
        roots: folders under which local files may be named, by ``file://`` or a path; none by default.
        fetch: gets the bytes of an ``http`` or ``https`` address; None, the default, refuses them.
    """

    limits: PictureLimits = PictureLimits()
    roots: tuple[Path, ...] = ()
    fetch: Callable[[str, PictureLimits], bytes] | None = None

    def open(self, address: str, where: str) -> Image.Image:
        """The picture at an address.

        Args:
            address: ``data:``, ``file:``, ``http(s):`` or a path.
            where: what to call it in messages.

        Raises:
            UserError: not allowed, not there, or no picture that is taken.
        """
        scheme = address.partition(":")[0].lower() if ":" in address else ""
        if scheme == "data":
            return read_data_uri(address, where, self.limits)
        if scheme in ("http", "https"):
            if self.fetch is None:
                raise UserError(
                    f"{where}: pictures are not fetched from the network here; send the picture itself, as "
                    "data:image/png;base64,..."
                )
            try:
                content = self.fetch(address, self.limits)
            except UserError as error:
                raise UserError(f"{where}: {_short(address)}: {error}") from error
            return read_picture(content, f"{where}: {_short(address)}", self.limits)
        if not self.roots:
            raise UserError(f"{where}: {_short(address)}: files are not read here; send data:image/png;base64,...")
        path = _file_path(address, where) if scheme == "file" else address
        return read_picture(_read_under(path, self.roots, where, self.limits), f"{where}: {_short(path)}", self.limits)


def read_picture(content: bytes, where: str, limits: PictureLimits | None = None) -> Image.Image:
    """Decode a picture file of unknown origin to RGB, as ``data.images.load_image`` does.

    Args:
        content: the file's bytes.
        where: what to call it in messages.
        limits: of the picture; None takes the usual ones.

    Raises:
        UserError: too large, animated, truncated, or not a picture of the formats that are taken.
    """
    limits = limits or PictureLimits()
    if not content:
        raise UserError(f"{where}: is empty")
    if len(content) > limits.max_bytes:
        raise UserError(f"{where}: has {len(content)} bytes, at most {limits.max_bytes} are taken")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # the header alone
            width, height = image.size
            several = image.format != "MPO" and getattr(image, "is_animated", False)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{where}: has more pixels than the {limits.max_pixels} that are taken") from error
    except Exception as error:  # of a file made to do harm, Pillow's readers raise nearly anything
        raise UserError(f"{where}: is not a picture that can be read{_guess(content)}; {_ALLOWED}") from error
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise UserError(
            f"{where}: is {width} x {height} pixels; at most {limits.max_pixels} in all and {limits.max_side} a side "
            "are taken; scale it down"
        )
    if several:
        raise UserError(f"{where}: is animated; send one of its pictures by itself")
    try:
        return decode_image(content, where)
    except UserError:
        raise
    except Exception as error:  # see above
        raise UserError(f"{where}: not a readable picture ({type(error).__name__}: {error})") from error


def read_data_uri(address: str, where: str, limits: PictureLimits | None = None) -> Image.Image:
    """The picture in a ``data:image/...;base64,...`` address; its declared type is not believed.

    Args:
        address: the whole of it.
        where: what to call it in messages.
        limits: as for :func:`read_picture`.

    Raises:
        UserError: no base64, too large, or as :func:`read_picture`.
    """
    limits = limits or PictureLimits()
    found = _DATA.match(address[:1000])
    if found is None or not found[1].lower().endswith(";base64"):
        raise UserError(f"{where}: {_short(address)}: is not a picture as data:image/png;base64,...")
    size = (len(address) - found.end()) * 3 // 4
    if size > limits.max_bytes + 3:
        raise UserError(f"{where}: has {size} bytes, at most {limits.max_bytes} are taken")
    try:
        content = base64.b64decode(address[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: its base64 is broken ({error})") from error
    return read_picture(content, where, limits)


def _guess(content: bytes) -> str:
    """What a file that is no picture seems to be, to say so."""
    head = content[:1000].lstrip().lower()
    if b"<svg" in head:
        return " (it is an SVG drawing)"
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return " (it is a HEIF or AVIF picture)"
    return " (it is a TIFF picture)" if content[:4] in (b"II*\0", b"MM\0*") else ""


def _file_path(address: str, where: str) -> str:
    try:
        parts = urlsplit(address)
        path = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise UserError(f"{where}: {_short(address)}: is no file address ({error})") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UserError(f"{where}: {_short(address)}: is no local file's address, as file:///folder/picture.png")
    return path


def _read_under(path: str, roots: tuple[Path, ...], where: str, limits: PictureLimits) -> bytes:
    """A file's bytes; where it truly lies, all links followed, must be under one of the roots.

    What lies elsewhere is answered with the same words whether it is there or not.
    """
    for root in roots:
        try:
            root = root.resolve()
            real = (root / path).resolve(strict=True)  # an absolute path takes the root's place
            if real.is_relative_to(root):
                return _read_regular(real, limits)
        except (OSError, ValueError, RuntimeError):  # missing, a NUL, a ring of links; the next root may have it
            continue
    raise UserError(f"{where}: {_short(path)}: no such picture under the folders that are allowed")


def _read_regular(path: Path, limits: PictureLimits) -> bytes:
    # A link put in the file's place since is not followed, a pipe put there not waited for.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a file")
        return file.read(limits.max_bytes + 1)


def _short(text: str) -> str:
    """A place on one line, without control characters."""
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
