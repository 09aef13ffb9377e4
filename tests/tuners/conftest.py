"""Tiny random models for the tuner tests."""

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_models import IMAGE_TOKEN, make_llama, make_llava
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from llava_teamlora import TeamLoraConfig


def pytest_configure(config: pytest.Config) -> None:
    """Let pass two warnings of peft's that nothing here can help.

    It reads an attribute that the newest transformers deprecates; peft 0.20 misses the config file of a random model.
    """
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore:Could not find a config file:UserWarning")


@pytest.fixture(name="make_llama")
def _make_llama() -> Callable[[], LlamaForCausalLM]:
    """Make the same tiny Llama each time it is called."""
    return make_llama


@pytest.fixture(name="make_llava")
def _make_llava() -> Callable[[], LlavaForConditionalGeneration]:
    """Make the same tiny LLaVA each time it is called."""
    return make_llava


@pytest.fixture
def make_random() -> Callable[..., PeftModel]:
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
