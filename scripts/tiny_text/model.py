"""The text base's shape: transformers' own Llama, small, and how it computes while it is pretrained.

Out: LlamaForCausalLM with random weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .tokenizer import MAX_LENGTH


@dataclass(frozen=True)
class Shape:
    """Sizes of the base."""

    layers: int = 4
    width: int = 192
    ffn: int = 512
    head: int = 32


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama of that shape with random weights, greedy by default."""
    special: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // shape.head,
        num_key_value_heads=shape.width // shape.head,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # queries begin as keys do, so that words find their like: what looking things up grows from
        weights = dict(model.named_parameters())
        for name in weights:
            if name.endswith("k_proj.weight"):
                weights[name].copy_(weights[name.replace("k_proj", "q_proj")])
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **special)
    return model


def _float32_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in float32, whose backward pass is four times as fast on a CPU as bfloat16's."""
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **kwargs)
    return out.to(query.dtype), None


AttentionInterface.register("float32_sdpa", _float32_attention)
