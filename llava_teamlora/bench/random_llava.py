"""A LLaVA of random weights, where the real ones are not at hand: its speed and memory are theirs, its answers are not.

Out: the configurations of LLaVA-1.5-7B's parts and of smaller ones, a model of them on any device, and batches for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from llava_teamlora.errors import UserError
from llava_teamlora.models.llava import LlavaForConditionalGeneration

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "7b": (
        {
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        },
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 336, "patch_size": 14, "projection_dim": 768,
        },
    ),
    "small": (
        {
            "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 8, "vocab_size": 2048, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        },
        {
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 128, "patch_size": 16, "projection_dim": 64,
        },
    ),
    "tiny": (
        {
            "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        },
        {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "projection_dim": 16,
        },
    ),
}  # fmt: skip
"""Of the language model and of the tower; 7b is what lmsys/vicuna-7b-v1.5 and openai/clip-vit-large-patch14-336 say."""


def configs_of(size: str) -> tuple[LlamaConfig, CLIPVisionConfig]:
    """Configurations of the language model and the tower.

    Args:
        size: one of SIZES.
    """
    text, vision = SIZES[size]
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return (
        LlamaConfig(**text, **ids, architectures=["LlamaForCausalLM"]),
        CLIPVisionConfig(**vision, hidden_act="quick_gelu", architectures=["CLIPVisionModel"]),
    )


def build_random_llava(size: str, dtype: torch.dtype, device: str | torch.device) -> LlavaForConditionalGeneration:
    """The whole model, in the dtype and on the device, "meta" too; its last word stands for a picture's patch.

    Args:
        size: one of SIZES.
        dtype: of all weights.
        device: where they are drawn.
    """
    text, vision = configs_of(size)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=text.vocab_size - 1)
    with torch.device(device):
        return LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")


def patches(config: LlavaConfig) -> int:
    """Tokens that a picture takes up."""
    vision: Any = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def picture_shape(config: LlavaConfig) -> tuple[int, int, int]:
    """Of one picture's pixels."""
    vision: Any = config.vision_config
    return 3, vision.image_size, vision.image_size


def random_batch(config: LlavaConfig, samples: int, tokens: int, device: torch.device) -> dict[str, Tensor]:
    """A batch to train on: one picture a sample, every token trained on.

    Args:
        config: of the model.
        samples: sequences.
        tokens: of each, its picture's patches among them.
        device: where it is.

    Raises:
        UserError: no room for the picture.
    """
    taken = patches(config)
    if tokens <= taken + 1:
        raise UserError(f"--tokens {tokens} leaves no room beside a picture's {taken}; at least {taken + 2}")
    ids = torch.randint(3, config.image_token_id, (samples, tokens), device=device)  # [B, T]
    ids[:, 1 : 1 + taken] = config.image_token_id
    return {
        "input_ids": ids,
        "labels": ids.clone(),
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.zeros(samples, *picture_shape(config), device=device),
    }
