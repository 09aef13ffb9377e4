"""The tiny models of the tuner tests and what is done to them; fixtures of conftest.py hand them out."""

import warnings

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

LLAVA_TARGETS = r".*language_model.*\.(gate_proj|up_proj|down_proj)"
IMAGE_TOKEN = 63


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )


def make_llama() -> LlamaForCausalLM:
    """The same tiny Llama each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config()).eval()


def make_llava() -> LlavaForConditionalGeneration:
    """The same tiny LLaVA each time: 4 patches a picture, whose vision tower has fc1 and fc2."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=8,
    )
    config = LlavaConfig(vision_config=vision, text_config=llama_config(), image_token_index=IMAGE_TOKEN)
    return LlavaForConditionalGeneration(config).eval()


def enable_checkpointing(model: PeftModel, reentrant: bool) -> None:
    """Turn gradient checkpointing on by the name that every supported transformers has (newest ones: deprecated)."""
    model.enable_input_require_grads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients there are, by the parameter's name."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
