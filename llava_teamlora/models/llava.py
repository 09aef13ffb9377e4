"""transformers' LLaVA with any of LLaVA's projectors and a tower that is never trained.

The classes keep transformers' names, so that a saved model's ``architectures`` name what everybody can load; their
weights have transformers' names too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, LlavaConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava import modeling_llava as theirs

from llava_teamlora.models.projector import build_projector
from llava_teamlora.models.vision import tower_features


class _TransformersOwn:
    @classmethod
    def is_custom_code(cls) -> bool:
        """No: transformers would not rename the weights of older checkpoints for custom code."""
        return False


class LlavaModel(_TransformersOwn, theirs.LlavaModel):
    """Vision tower, projector and language model.

    Args:
        config: of the whole.
        vision_tower: loaded already; None builds it anew.
        language_model: likewise, without its head.
    """

    def __init__(
        self,
        config: LlavaConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        theirs.LlavaPreTrainedModel.__init__(self, config)  # transformers' LlavaModel builds its own projector
        self.vision_tower = AutoModel.from_config(config.vision_config) if vision_tower is None else vision_tower
        self.multi_modal_projector: nn.Module = build_projector(config)
        self.language_model = AutoModel.from_config(config.text_config) if language_model is None else language_model
        self.post_init()

    def train(self, mode: bool = True) -> LlavaModel:
        """As a module's own; the tower stays in eval mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **unused: Any,
    ) -> BaseModelOutputWithPooling:
        """Pictures -> ``pooler_output``, a list of N projected features ``[P, D]``.

        Args:
            pixel_values: ``[N, 3, H, W]``; or, from a feature cache, what the tower makes of them, ``[N, P, D]``.
            vision_feature_layer: None is the config's.
            vision_feature_select_strategy: likewise.
            unused: what transformers' own takes besides.
        """
        features = pixel_values
        if pixel_values.dim() == 4:
            layer = self.config.vision_feature_layer if vision_feature_layer is None else vision_feature_layer
            strategy = vision_feature_select_strategy or self.config.vision_feature_select_strategy
            features = tower_features(self.vision_tower, pixel_values, layer, strategy)
        projected = self.multi_modal_projector(features)  # [N, P, D]
        # A list is what transformers' own returns here.
        return BaseModelOutputWithPooling(pooler_output=list(projected))  # pyright: ignore[reportArgumentType]


class LlavaForConditionalGeneration(_TransformersOwn, theirs.LlavaForConditionalGeneration):
    """:class:`LlavaModel` with the language model's head.

    Args:
        config: of the whole.
        vision_tower: see :class:`LlavaModel`.
        language_model: likewise.
    """

    def __init__(
        self,
        config: LlavaConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        theirs.LlavaPreTrainedModel.__init__(self, config)
        self.model = LlavaModel(config, vision_tower, language_model)
        text: Any = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()
