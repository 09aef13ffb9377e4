"""Pictures are prepared as LLaVA prepares them, and bad ones are found before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from llava_teamlora.data.images import check_images, load_image, pad_to_square, prepare_image
from llava_teamlora.data.records import Record, Turn
from llava_teamlora.errors import UserError

TURNS = (Turn("human", "q"), Turn("gpt", "a"))


def record(*images: str) -> Record:
    return Record("data.json", 3, "x", images, TURNS)


def test_padding_centres_on_the_background() -> None:
    wide = Image.new("RGB", (6, 3), (10, 20, 30))
    pixels = np.asarray(pad_to_square(wide, (1, 2, 3)))
    assert pixels.shape == (6, 6, 3)
    assert (pixels[1:4] == (10, 20, 30)).all()  # (6 - 3) // 2 = 1 row above
    assert (pixels[[0, 4, 5]] == (1, 2, 3)).all()
    tall = np.asarray(pad_to_square(Image.new("RGB", (3, 6)), (9, 9, 9)))
    assert (tall[:, 1:4] == 0).all() and (tall[:, [0, 4, 5]] == 9).all()
    square = Image.new("RGB", (4, 4))
    assert pad_to_square(square, (9, 9, 9)) is square


def test_pad_equals_the_processor_on_a_padded_picture(pictures: Path, tiny: str) -> None:
    processor = CLIPImageProcessorPil.from_pretrained(tiny)
    image = load_image(pictures / "wide.png")
    background = tuple(int(mean * 255) for mean in processor.image_mean)
    square = Image.new("RGB", (80, 80), background)  # type: ignore[arg-type]
    square.paste(image, (0, 20))
    wanted = processor(square, return_tensors="pt")["pixel_values"][0]
    found = prepare_image(image, processor, "pad")
    assert found.shape == (3, 64, 64) and torch.equal(found, wanted)
    assert not torch.equal(prepare_image(image, processor, "square"), wanted)


def test_unreadable_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such picture"):
        load_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="is a folder"):
        load_image(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="not a readable picture"):
        load_image(tmp_path / "text.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.bmp")
    whole = (tmp_path / "cut.bmp").read_bytes()
    (tmp_path / "cut.bmp").write_bytes(whole[:100])
    with pytest.raises(UserError, match="not a readable picture"):
        load_image(tmp_path / "cut.bmp")


def test_prescan_names_record_and_file(pictures: Path) -> None:
    seen: list[int] = []
    assert check_images([record("red.png"), record("red.png"), record()], pictures, progress=seen.append) == 1
    assert seen == [1]
    (pictures / "bad.png").write_text("hello")
    Image.effect_noise((64, 64), 50).save(pictures / "noise.jpg")
    whole = (pictures / "noise.jpg").read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(UserError, match="cut.jpg: not a readable picture .*truncated"):
        check_images([record("cut.jpg")], pictures)
    assert check_images([record("cut.jpg")], pictures, decode_up_to=0) == 1
    with pytest.raises(UserError) as caught:
        check_images([record("red.png"), record("none.png"), record("bad.png")], pictures)
    message = str(caught.value)
    assert message.startswith("2 of 3 pictures cannot be used: data.json, record 3 (id x)")
    assert "none.png: no such picture" in message and "bad.png: not a picture" in message


def test_prescan_limits_what_it_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and 15 more"):
        check_images([record(f"{i}.png") for i in range(20)], tmp_path)


def test_folder_is_needed_only_with_pictures(tmp_path: Path) -> None:
    assert check_images([record()], None) == 0
    with pytest.raises(UserError, match="no --image_folder"):
        check_images([record("a.png")], None)
    with pytest.raises(UserError, match="no such folder"):
        check_images([record("a.png")], tmp_path / "none")
