"""Names the tuner tests share; the models themselves are fixtures of conftest.py."""

import warnings

from peft import PeftModel
from transformers import LlamaConfig

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


def enable_checkpointing(model: PeftModel, reentrant: bool) -> None:
    """Turn gradient checkpointing on by the name that every supported transformers has (newest ones: deprecated)."""
    model.enable_input_require_grads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
