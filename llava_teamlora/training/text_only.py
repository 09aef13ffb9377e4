"""Batches without pictures, beside processes whose batches have some.

In: a model and a batch. Out: the batch that the model is to be given. Processes that train together must do the same at
the same time. Each of them waits for the others' gradients of the projector; and where weights are split over processes
(ZeRO-3, FSDP), they bring each module's weights together when it runs, in the order in which modules run, forward and
backward. So a batch of text alone takes a blank picture through tower and projector at the very place where others
take theirs, and then drops what comes out. The gradient is zero, nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llava_teamlora.constants import PROJECTOR

PIXELS = "pixel_values"


class BlankPicture:
    """Stands in where a batch has no picture; in a model without a projector it does nothing.

    Args:
        model: a LLaVA, with or without an adapter.
        shape: of what the batches hold of one picture; None is ``[3, H, W]`` of the tower's pixels.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...] | None = None) -> None:
        vision: Any = getattr(model.config, "vision_config", None)
        self.shape = shape or ((3, *_pair(vision.image_size)) if vision is not None else None)
        self.stands_in = False
        for name, module in model.named_modules():
            if name.endswith(f".{PROJECTOR}"):
                module.register_forward_hook(self._drop)

    @contextmanager
    def in_place(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The inputs for one forward pass, with a blank picture ``[1, …]`` if they have none."""
        if PIXELS in inputs or self.shape is None:
            yield inputs
            return
        self.stands_in = True
        try:
            yield {**inputs, PIXELS: torch.zeros(1, *self.shape)}
        finally:
            self.stands_in = False

    def _drop(self, module: nn.Module, arguments: Any, features: torch.Tensor) -> torch.Tensor:
        """``[1, P, D]`` -> ``[1, 0, D]``: no token takes a place in the text, but the graph goes through."""
        return features[:, :0] if self.stands_in else features


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
