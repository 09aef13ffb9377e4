"""Pixels are those of LLaVA's own ``process_images``, to the last of 256 levels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil

from llava_teamlora.data.images import load_image, prepare_image

_HERE = Path(__file__).parent / "golden"
PIXELS = json.loads((_HERE / "pixels.json").read_text(encoding="utf-8"))["pixels"]


def prepared(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Normalised pixels ``[3, H, W]`` of ``side/mode/picture``, and the 8-bit levels they come from."""
    side, mode, name = case.split("/")
    size = {"height": int(side), "width": int(side)}
    processor = CLIPImageProcessorPil(size={"shortest_edge": int(side)}, crop_size=size)
    pixels = prepare_image(load_image(_HERE / "pictures" / f"{name}.png"), processor, mode).numpy().astype(np.float64)
    mean, std = (np.array(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return pixels, np.rint((pixels * std + mean) * 255).astype(np.uint8)


@pytest.mark.parametrize("case", [case for case in PIXELS if "error" not in PIXELS[case]])
def test_pixels_are_llavas(case: str) -> None:
    pixels, levels = prepared(case)
    assert hashlib.sha256(levels.tobytes()).hexdigest() == PIXELS[case]["sha256"]
    np.testing.assert_allclose(pixels.reshape(-1)[:: pixels.size // 7], PIXELS[case]["values"], atol=5e-6)


@pytest.mark.parametrize("case", [case for case in PIXELS if "error" in PIXELS[case]])
def test_a_picture_of_one_pixel(case: str) -> None:
    """LLaVA's processor takes its one row for a channel and fails."""
    pixels, levels = prepared(case)
    assert pixels.shape[0] == 3 and (levels == np.array([200, 30, 90])[:, None, None]).all()


def test_the_cases_are_all_there() -> None:
    names = {path.stem for path in (_HERE / "pictures").glob("*.png")}
    wanted = {f"{side}/{mode}/{name}" for side in (336, 24) for mode in ("pad", "square") for name in names}
    assert PIXELS.keys() == wanted and len(names) == 12
