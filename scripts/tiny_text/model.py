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
        attention_bias=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    begin_with_looking_up(model)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **special)
    return model


ROTARY_BASE = 10_000.0  # a Llama's, unless told otherwise
# of the first layer's heads, how many tokens back each looks; the others look at what they like
BACK = (1, 1, 2)


@torch.no_grad()
def begin_with_looking_up(model: LlamaForCausalLM) -> None:
    """Starts from what looking things up is made of, which takes small models most of their time to find.

    Queries begin as keys do, so that words find their like. Some heads of the first layer look one or two tokens back,
    and tell what stands there: then words find what stands behind their like.
    """
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if name.endswith("k_proj.weight"):
            weight.copy_(weights[name.replace("k_proj", "q_proj")])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()  # a layer adds nothing until it has learned to
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    turns = torch.arange(3) * (-2 / size)  # of the three fastest of the rotary pairs
    angles = ROTARY_BASE**turns  # radians a token
    prefix, strength = "model.layers.0.self_attn", 5.8
    for head, back in enumerate(BACK):
        rows = slice(head * size, (head + 1) * size)
        for projection, angle in (("q_proj", 0 * angles), ("k_proj", back * angles)):
            weights[f"{prefix}.{projection}.weight"][rows] *= 0.3
            bias = weights[f"{prefix}.{projection}.bias"][rows]
            bias[:3], bias[size // 2 : size // 2 + 3] = strength * angle.cos(), strength * angle.sin()
        told = torch.linalg.qr(torch.randn(config.hidden_size, size)).Q  # [D, size]
        weights[f"{prefix}.v_proj.weight"][rows] = told.T
        weights[f"{prefix}.o_proj.weight"][:, rows] = 0.05 * told


def _float32_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in float32, whose backward pass is four times as fast on a CPU as bfloat16's."""
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **kwargs)
    return out.to(query.dtype), None


AttentionInterface.register("float32_sdpa", _float32_attention)
