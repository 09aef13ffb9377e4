"""Tiny random models for the tuner tests."""

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_models import IMAGE_TOKEN, llama_config
from transformers import CLIPVisionConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from llava_teamlora import TeamLoraConfig


def pytest_configure(config: pytest.Config) -> None:
    """Let pass two warnings of peft's that nothing here can help.

    It reads an attribute that the newest transformers deprecates; peft 0.20 misses the config file of a random model.
    """
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore:Could not find a config file:UserWarning")


@pytest.fixture
def make_llama() -> Callable[[], LlamaForCausalLM]:
    """Make the same tiny Llama each time it is called."""

    def make() -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(llama_config()).eval()

    return make


@pytest.fixture
def make_llava() -> Callable[[], LlavaForConditionalGeneration]:
    """Make the same tiny LLaVA each time: 4 patches a picture, whose vision tower has fc1 and fc2."""

    def make() -> LlavaForConditionalGeneration:
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

    return make


@pytest.fixture
def make_random(make_llama: Callable[[], LlamaForCausalLM]) -> Callable[..., PeftModel]:
    """Make a tiny Llama whose TeamLoRA adapter is random in every weight, so that it has an effect."""

    def make(**fields: object) -> PeftModel:
        model = make_llama()
        torch.manual_seed(1)
        config = TeamLoraConfig(**{"r": 2, "num_experts": 3, "init_weights": False} | fields)
        return get_peft_model(model, config).eval()

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    """Two sequences of seven tokens, none of them padding or an image."""
    return torch.randint(1, IMAGE_TOKEN, (2, 7), generator=torch.Generator().manual_seed(2))
