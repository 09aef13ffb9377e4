"""The guard for pictures: what is taken, and that everything else is refused in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from api_served import as_uri, data_uri, picture
from hostile_files import hostile_files, saved
from PIL import Image

from llava_teamlora.data.images import load_image
from llava_teamlora.errors import UserError
from llava_teamlora.serving.pictures import PictureLimits, PictureSources, read_data_uri, read_picture

HOSTILE = hostile_files()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_picture_is_read_as_from_a_file(format: str, tmp_path: Path) -> None:
    content = saved(picture(2), format)
    path = tmp_path / "named.wrongly"
    path.write_bytes(content)
    found = read_picture(content, "it")
    assert found.mode == "RGB" and found.size == (66, 64)
    assert found.tobytes() == load_image(path).tobytes()
    # Neither its name nor its declared type says what it is.
    assert read_data_uri(as_uri(content, "text/html"), "it").tobytes() == found.tobytes()


def test_a_phone_s_picture_of_several_views_shows_the_first() -> None:
    views = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    content = saved(views[0], "MPO", save_all=True, append_images=views[1:])
    red, _, blue = read_picture(content, "it").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 200 and blue < 50


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^messages\[0\]: "):
        read_picture(HOSTILE[name], "messages[0]")


def test_refusals_say_what_is_wrong() -> None:
    limits = PictureLimits(max_bytes=3000, max_pixels=5000)
    for content, said in (
        (saved(Image.new("RGB", (101, 50)), "PNG"), "is 101 x 50 pixels; at most 5000 in all"),
        # Padded to a square it would have 10,201 times as many.
        (saved(Image.new("RGB", (101, 1)), "PNG"), "is 101 x 1 pixels; .* and 100 a side"),
        (bytes(3001), "has 3001 bytes, at most 3000"),
        (HOSTILE["drawing.png"], "it is an SVG drawing.*PNG, JPEG, WebP, BMP and GIF"),
        (HOSTILE["layers.tif"], "it is a TIFF picture"),
        (HOSTILE["animated.gif"], "is animated"),
        (b"", "is empty"),
    ):
        with pytest.raises(UserError, match=said):
            read_picture(content, "it", limits)
    assert read_picture(saved(Image.new("RGB", (100, 50)), "PNG"), "it", limits).size == (100, 50)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("data:image/png;base64,@@@@", "base64 is broken"),
        ("data:image/png;base64,iVBORw0KGg", "base64 is broken"),
        ("data:image/png,iVBORw0KGgo=", "is not a picture as data:image/png;base64"),
        ("data:", "is not a picture as data:image/png;base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64," + "A" * 8000, "has 6000 bytes, at most 3000"),
        ("data:" + "x" * 5000 + ";base64,AAAA", "is not a picture as"),
    ],
)
def test_data_addresses_that_are_none(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_data_uri(address, "it", PictureLimits(max_bytes=3000))
    assert len(str(error.value)) < 300


@pytest.fixture
def sources(tmp_path: Path) -> PictureSources:
    """Allows ``open``; beside it lies ``closed``, with a picture as well."""
    for name in ("open/deep", "closed", "open-too"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        picture().save(folder / "shape.png")
    picture().save(tmp_path / "open" / "a b%.png")
    (tmp_path / "open" / "link.png").symlink_to(tmp_path / "closed" / "shape.png")
    (tmp_path / "open" / "near.png").symlink_to(tmp_path / "open" / "deep" / "shape.png")
    (tmp_path / "open" / "ring.png").symlink_to(tmp_path / "open" / "ring.png")
    (tmp_path / "open" / "out").symlink_to(tmp_path / "closed")
    (tmp_path / "open" / "note.png").write_text("a secret")
    os.mkfifo(tmp_path / "open" / "pipe.png")
    return PictureSources(PictureLimits(), (tmp_path / "open",))


@pytest.mark.parametrize("name", ["deep/shape.png", "near.png", "deep/../a b%.png"])
def test_files_under_an_allowed_folder(sources: PictureSources, tmp_path: Path, name: str) -> None:
    whole = (tmp_path / "open" / name).as_posix()
    for address in (name, whole, "file://" + whole.replace("%", "%25").replace(" ", "%20"), f"file://localhost{whole}"):
        if address.startswith("file://localhost") and "%" in address:
            continue
        assert sources.open(address, "it").size == (64, 64)


@pytest.mark.parametrize(
    "address",
    [
        "{}/closed/shape.png",
        "file://{}/closed/shape.png",
        "{}/open/../closed/shape.png",
        "file://{}/open/%2e%2e/closed/shape.png",
        "../closed/shape.png",
        "{}/open-too/shape.png",
        "{}/open/link.png",
        "{}/open/out/shape.png",
        "{}/open/ring.png",
        "{}/open/none.png",
        "{}/open/deep",
        "{}/open/pipe.png",
        "{}/open",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/environ",
        "~/picture.png",
        "a\0b.png",
        "file://{}/open/%00.png",
        "x" * 5000,
        "",
    ],
)
def test_nothing_else_is_read(sources: PictureSources, tmp_path: Path, address: str) -> None:
    """What is not allowed, and what is not there, is answered in the same words."""
    with pytest.raises(UserError, match=r"^it: .*no such picture under the folders that are allowed$") as error:
        sources.open(address.format(tmp_path), "it")
    assert "\0" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file://example.org/shape.png", "is no local file's address"),
        ("file:///shape.png?size=1", "is no local file's address"),
        ("file:///%ff.png", "is no file address"),
        ("file://[", "is no file address"),
        ("http://127.0.0.1/shape.png", "not fetched from the network"),
        ("HTTPS://example.org/shape.png", "not fetched from the network"),
        ("ftp://example.org/shape.png", "no such picture"),
        ("javascript:alert(1)", "no such picture"),
    ],
)
def test_other_addresses(sources: PictureSources, address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sources.open(address, "it")


def test_a_file_that_is_no_picture_is_not_told(sources: PictureSources) -> None:
    with pytest.raises(UserError, match="is not a picture") as error:
        sources.open("note.png", "it")
    assert "secret" not in str(error.value)


def test_no_file_is_read_unless_a_folder_is_allowed(tmp_path: Path) -> None:
    picture().save(tmp_path / "shape.png")
    for address in (str(tmp_path / "shape.png"), f"file://{tmp_path}/shape.png"):
        with pytest.raises(UserError, match="files are not read here"):
            PictureSources().open(address, "it")
    assert PictureSources().open(data_uri(picture()), "it").size == (64, 64)
