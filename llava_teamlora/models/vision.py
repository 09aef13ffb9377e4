"""Vision towers: which are known, how pictures are made ready for them, which of their features a LLaVA sees.

In: folders or hub ids, pixel values. Out: towers, image processors, features. A tower is always frozen: it runs without
gradients, so that nothing of it is kept for the backward pass or computed again by gradient checkpointing. What LLaVA
selects is ``CLIPVisionTower.feature_select`` in its ``clip_encoder.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlavaConfig,
    PreTrainedModel,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from llava_teamlora.errors import UserError
from llava_teamlora.models.pretrained import load, load_config, load_whole

SELECT_FEATURES = ("patch", "cls_patch")
SELECT_LAYER = -2
"""LLaVA-1.5's: the last layer but one."""

Strategy = Literal["default", "full"]
"""transformers' words: the first token dropped, or all kept."""


@dataclass(frozen=True)
class TowerKind:
    """A kind of vision tower.

    Attributes:
        model: its class.
        image_processor: class that makes its pixels with PIL alone, the same whether torchvision is installed or not.
        has_cls: its first token is a cls token and no patch.
        other_side: beginnings of the names of weights that a whole CLIP or SigLIP has beside its tower.
    """

    model: type[PreTrainedModel]
    image_processor: Any
    has_cls: bool
    other_side: tuple[str, ...]


_CLIP = TowerKind(
    CLIPVisionModel, CLIPImageProcessorPil, True, ("text_model.", "text_projection.", "visual_projection.", "logit_")
)
_SIGLIP = TowerKind(SiglipVisionModel, SiglipImageProcessorPil, False, ("text_model.", "logit_"))

TOWERS = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
}
"""Towers by the ``model_type`` of their config."""


def tower_kind(name: str, config: Any) -> TowerKind:
    """The kind of the tower that a config describes.

    Raises:
        UserError: none of :data:`TOWERS`; ``name`` is whose config it is.
    """
    if config.model_type not in TOWERS:
        raise UserError(f"{name}: is a {config.model_type!r} model, not a CLIP or SigLIP vision tower")
    return TOWERS[config.model_type]


def load_tower(name: str, **kwargs: Any) -> PreTrainedModel:
    """The tower of a folder or hub id, which may also hold a whole CLIP or SigLIP.

    Raises:
        UserError: nothing there, or something else.
    """
    kind = tower_kind(name, load_config(name))
    return load_whole(kind.model, name, may_be_left=kind.other_side, **kwargs)


def load_image_processor(name: str, vision_config: Any) -> Any:
    """The image processor of a folder or hub id, for the tower that ``vision_config`` describes.

    Raises:
        UserError: none there, or its pictures have another size than the tower takes.
    """
    processor = load(tower_kind(name, vision_config).image_processor, name)
    made = tuple(processor(Image.new("RGB", (3, 2)), return_tensors="pt")["pixel_values"].shape[-2:])
    wanted = _pair(vision_config.image_size)
    if made != wanted:
        raise UserError(
            f"{name}: its image processor makes {made[0]} x {made[1]} pixels, but the vision tower takes {wanted[0]} x "
            f"{wanted[1]}; mend 'size' or 'crop_size' in preprocessor_config.json"
        )
    return processor


def select_strategy(name: str, config: Any, feature: str | None) -> Strategy:
    """LLaVA's ``mm_vision_select_feature`` -> transformers' ``vision_feature_select_strategy``.

    Args:
        name: whose tower it is.
        config: the tower's.
        feature: ``patch`` (also None): the patches alone; ``cls_patch``: the cls token before them.

    Raises:
        UserError: an unknown word, or a cls token of a tower that has none.
    """
    if feature not in (None, *SELECT_FEATURES):
        raise UserError(f"--mm_vision_select_feature {feature!r} is not one of {', '.join(SELECT_FEATURES)}")
    has_cls = tower_kind(name, config).has_cls
    if feature == "cls_patch" and not has_cls:
        raise UserError(f"{name}: its vision tower has no cls token; drop --mm_vision_select_feature cls_patch")
    return "default" if has_cls and feature != "cls_patch" else "full"


def check_layer(name: str, config: Any, layer: int | list[int]) -> None:
    """Refuse a layer that the tower does not have.

    Args:
        name: whose tower it is.
        config: the tower's.
        layer: hidden state: 0 is the input of the first layer, -1 the output of the last; several are concatenated.

    Raises:
        UserError: out of range.
    """
    depth = config.num_hidden_layers
    for one in _listed(layer):
        if not -depth - 1 <= one <= depth:
            raise UserError(
                f"{name}: its vision tower has {depth} layers, so --mm_vision_select_layer must be between "
                f"{-depth - 1} and {depth} (0: before the first layer), not {one}"
            )


def tokens_per_image(config: LlavaConfig) -> int:
    """Features of one picture: its patches, and the cls token when there is one and it is kept."""
    vision: Any = config.vision_config
    (height, width), (down, across) = _pair(vision.image_size), _pair(vision.patch_size)
    tokens = (height // down) * (width // across) + tower_kind("the model", vision).has_cls
    return tokens - (config.vision_feature_select_strategy == "default")


def count_layers(layer: int | list[int]) -> int:
    """How many hidden states make up a feature."""
    return len(_listed(layer))


@torch.no_grad()
def tower_features(tower: Any, pixels: torch.Tensor, layer: int | list[int], strategy: str) -> torch.Tensor:
    """What a LLaVA sees of pictures, before its projector. No layer above the selected one is computed.

    Args:
        tower: CLIP's or SigLIP's.
        pixels: ``[N, 3, H, W]``.
        layer: see :func:`check_layer`.
        strategy: ``default`` drops the first token, ``full`` keeps all.

    Returns:
        ``[N, P, D]``, D the width of the tower times the number of layers; without a gradient.
    """
    layers = tower.encoder.layers
    wanted = [one % (len(layers) + 1) for one in _listed(layer)]
    hidden = tower.embeddings(pixels)  # [N, P, D]
    if hasattr(tower, "pre_layrnorm"):  # CLIP's; the name is transformers'
        hidden = tower.pre_layrnorm(hidden)
    states = [hidden]
    for block in islice(layers, max(wanted)):
        states.append(block(states[-1], attention_mask=None))
    features = torch.cat([states[one] for one in wanted], dim=-1)
    # Contiguous, as features from a feature cache are: products of half-precision matrices round by layout.
    return features[:, 1:].contiguous() if strategy == "default" else features


def _listed(layer: int | list[int]) -> list[int]:
    return [layer] if isinstance(layer, int) else list(layer)


def _pair(size: Any) -> tuple[int, int]:
    """Height and width; one number is both."""
    return (size, size) if isinstance(size, int) else tuple(size)
