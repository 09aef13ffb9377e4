"""The base's shape: transformers' own LLaVA classes, small, with tokenizer and processor.

Out: LlavaForConditionalGeneration (CLIP tower, 2-layer GELU projector, Llama) with random weights, and the
LlavaProcessor that goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from llava_teamlora.constants import IMAGE_TOKEN

from .scenes import SIDE
from .tokenizer import MAX_LENGTH
from .tower import PIXEL_MEAN, PIXEL_STD, tower_config


@dataclass(frozen=True)
class Shape:
    """Sizes of the base. Layers count those in use (the tower has one more), patch in px."""

    patch: int = 16
    tower_layers: int = 4
    tower_width: int = 128
    layers: int = 4
    width: int = 128
    ffn: int = 384

    @property
    def image_tokens(self) -> int:
        """Tokens a picture takes in the language model."""
        return (SIDE // self.patch) ** 2


def build_model(shape: Shape, tokenizer: LlamaTokenizer) -> LlavaForConditionalGeneration:
    """A LLaVA of that shape with random weights, greedy by default."""
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert isinstance(image_token, int)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 32,
        num_key_value_heads=shape.width // 32,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        **special,
    )
    config = LlavaConfig(
        vision_config=tower_config(shape.tower_layers, shape.tower_width, shape.patch),
        text_config=text,
        image_token_index=image_token,
        image_seq_length=shape.image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # loud enough that the first steps of training don't drown what the words start with
        model.model.language_model.embed_tokens.weight *= 3
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **special)
    return model


def build_processor(shape: Shape, tokenizer: LlamaTokenizer) -> LlavaProcessor:
    """The processor: pictures to SIDE x SIDE px (shorter edge, then centre), normalised as the tower was taught."""
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
    )
