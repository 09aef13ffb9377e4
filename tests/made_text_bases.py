"""Tiny text-only bases of other families than the embedded one: their tokenizers' ways, chat templates of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_TURNS = "{% for message in messages %}"


@dataclass(frozen=True)
class Family:
    """What tells a family's tokenizers from others.

    Attributes:
        model_type: of the models.
        end: eos_token.
        marks: special tokens beside it.
        bos: what the tokenizer puts in front of every text.
        chat: chat template.
        fields: of the model's config.
    """

    model_type: str
    end: str
    marks: Sequence[str] = ()
    bos: str | None = None
    chat: str | None = None
    fields: tuple[tuple[str, Any], ...] = ()


CHAT_ML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou know colours.<|im_end|>\n{% endif %}"
    + _TURNS
    + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nIt is {{ strftime_now('%d %b %Y') }}.<|eot_id|>"
    + _TURNS
    + "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
THINKING = (
    _TURNS + "<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""As Qwen 3's: thoughts stand in the last answer alone."""

INSTRUCTED = (
    "{{ bos_token }}" + _TURNS + "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""As Llama 2's."""

CLOSING = (
    _TURNS + "<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
"""As Phi 3's: a finished conversation has an end of its own."""

_HEADS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES = {
    "llama_3": Family("llama", "<|end_of_text|>", _HEADS, "<|begin_of_text|>"),
    "llama_3_instruct": Family("llama", "<|eot_id|>", ("<|end_of_text|>", *_HEADS[:2]), "<|begin_of_text|>", HEADERS),
    "qwen2": Family("qwen2", "<|endoftext|>", ("<|im_start|>", "<|im_end|>")),
    "qwen2_instruct": Family("qwen2", "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), None, CHAT_ML),
    "qwen3": Family("qwen3", "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), None, THINKING, (("head_dim", 8),)),
    "gpt2": Family("gpt2", "<|endoftext|>"),
    "phi3": Family("phi3", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|end|>"), None, CLOSING),
}


def byte_tokenizer(family: str, chat: str | None = None) -> Any:
    """A byte-level tokenizer without merges, with that family's special tokens."""
    kind = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials = [token for token in (kind.bos, kind.end, *kind.marks) if token]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if kind.bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", special_tokens=[(kind.bos, made.token_to_id(kind.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=kind.bos, eos_token=kind.end, chat_template=chat or kind.chat
    )


def make_text_base(folder: Path, family: str, chat: str | None = None) -> str:
    """A random model of that family with its tokenizer; the path."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(family, chat)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": None,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    kind = FAMILIES[family]
    config = AutoConfig.for_model(kind.model_type, **{**sizes, **dict(kind.fields)})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
