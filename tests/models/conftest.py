"""A language model and a vision tower on disk, to be put together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
)


@pytest.fixture(scope="session")
def parts(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of a tiny Llama (whose tokenizer has no <image>) and a tiny whole CLIP."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    words = LlamaConfig(
        vocab_size=len(tokenizer) - 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(words).save_pretrained(root / "llm")
    _without_image_token(tokenizer, root / "llm")
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
    )
    text = CLIPTextConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).save_pretrained(
        root / "clip"
    )
    CLIPImageProcessorPil.from_pretrained(tiny).save_pretrained(root / "clip")
    return str(root / "llm"), str(root / "clip")


def _without_image_token(tokenizer, folder: Path) -> None:
    """Save the base's tokenizer as a plain language model's: its last token, <image>, is taken out."""
    import json

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
