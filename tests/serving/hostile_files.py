"""Files that somebody may send as a picture, and that are none or more than one should take."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def chunk(kind: bytes, content: bytes) -> bytes:
    """One part of a PNG file, with its right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_zeros(width: int, height: int, rows: int | None = None) -> bytes:
    """A black grey-level PNG that is small as a file, whatever its size in pixels.

    Args:
        width: pixels.
        height: pixels.
        rows: how many of them there really are; None means all.
    """
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """A picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(side: int) -> Image.Image:
    """A picture that hardly any format makes smaller."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _animated() -> bytes:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


_SVG = b"""<?xml version="1.0"?>
<!DOCTYPE svg [<!ENTITY secret SYSTEM "file:///etc/hostname">]>
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>window.broken = 1</script>
<text y="20">&secret;</text><image href="http://203.0.113.7/leak.png"/></svg>
"""


def _commented() -> bytes:
    """A PNG whose comment is small in the file and 64 MiB long."""
    whole = png_of_zeros(8, 8)
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 * 2**20), 9))
    end = whole.index(b"IDAT") - 4
    return whole[:end] + comment + whole[end:]


def _widened(photo: bytes) -> bytes:
    """A JPEG whose header says 65,500 x 65,500 pixels."""
    at = photo.index(b"\xff\xc0") + 5
    return photo[:at] + struct.pack(">HH", 65_500, 65_500) + photo[at + 4 :]


def hostile_files() -> dict[str, bytes]:
    """Name of a file -> its bytes. All of them are to be refused in words."""
    photo = saved(noise(200), "JPEG")
    return {
        "bomb.png": png_of_zeros(12_000, 12_000),  # 140 kB, 144 million pixels
        "header.png": png_of_zeros(20_000, 20_000, rows=1),
        "endless.png": png_of_zeros(2**31 - 1, 2**31 - 1, rows=0),
        "comment.png": _commented(),
        "header.jpg": _widened(photo),
        "header.bmp": saved(Image.new("RGB", (8, 8)), "BMP").replace(struct.pack("<ii", 8, 8), b"\xff\xff\x0f\0" * 2),
        "truncated.jpg": photo[: len(photo) // 2],
        "truncated.png": saved(noise(64), "PNG")[:200],
        "drawing.svg": _SVG,
        "drawing.png": _SVG,
        "animated.gif": _animated(),
        "text.png": b"this is no picture\n" * 9,
        "page.png": b"<html><script>window.broken = 1</script></html>",
        "empty.png": b"",
        "zeros.png": bytes(1000),
        "document.pdf": b"%PDF-1.4\n%%EOF\n",
        "archive.png": b"PK\x03\x04" + bytes(200),
        "layers.tif": saved(Image.new("RGB", (8, 8)), "TIFF"),
    }
