"""Tiny bases on disk: language models, vision towers, LLaVAs, each of them random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

WIDTH = 16


def make_language_model(folder: Path, tiny: str, model_type: str = "llama", **fields: Any) -> str:
    """A language model of that type with the embedded base's tokenizer, which here has no ``<image>``."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    sizes = {
        "vocab_size": len(tokenizer) - 1,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = AutoConfig.for_model(model_type, **{**sizes, **fields})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    _without_image_token(tokenizer, folder)
    return str(folder)


def _without_image_token(tokenizer: Any, folder: Path) -> None:
    """Save the base's tokenizer as a plain language model's: its last token, <image>, is taken out."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<image>"]
    path.write_text(json.dumps(content), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("extra_special_tokens", "additional_special_tokens", "added_tokens_decoder", "image_token"):
        content.pop(key, None)
    content.pop("processor_class", None)
    path.write_text(json.dumps(content), encoding="utf-8")


def tower_sizes(**fields: Any) -> dict[str, Any]:
    """Fields of a tiny tower's config."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {**sizes, "image_size": 64, "patch_size": 16, **fields}


def make_clip(folder: Path, tiny: str, **fields: Any) -> str:
    """A whole CLIP, as the hub has them, with an image processor of its tower's size."""
    torch.manual_seed(1)
    vision = tower_sizes(**fields)
    text = {
        "vocab_size": 9,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    side = vision["image_size"]
    processor = CLIPImageProcessorPil.from_pretrained(
        tiny, size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor.save_pretrained(folder)
    return str(folder)


def make_siglip(folder: Path, **fields: Any) -> str:
    """A whole SigLIP with its image processor."""
    torch.manual_seed(2)
    vision = tower_sizes(**fields)
    text = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    side = vision["image_size"]
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)
