"""Names the conversion tests share; the run folders themselves are made by a fixture of conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llava_teamlora.constants import PROJECTOR

MakeRun = Callable[..., Path]


def randomise(model: Any) -> None:
    """Move every trained weight; routers most, so that tokens are routed unlike."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 0.3 if "router" in name else 0.002 if PROJECTOR in name else 0.1
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def answers(folder: Path | str) -> torch.Tensor:
    """Logits of a model folder, of either kind, for a fixed question about a fixed picture."""
    from llava_teamlora.generation.loading import load_quietly

    loaded = load_quietly(folder, device="cpu", dtype="float32")
    assert loaded.vision is not None
    ids = [1, *[loaded.vision.image_token_id] * loaded.vision.tokens_per_image, 5, 9, 7]
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return loaded.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
