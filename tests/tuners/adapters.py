"""Random adapters on the tiny Llama, in float64: what the tests of conversions and surgery work on."""

from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from tiny_models import make_llama

from llava_teamlora import HydraLoraConfig, MoeLoraConfig, TeamLoraConfig
from llava_teamlora.tuners.routed.adapter import Adapter

FFN = ["gate_proj", "up_proj", "down_proj"]
ROUTED = {
    "teamlora": lambda **fields: TeamLoraConfig(**fields),
    "teamlora, M fixed": lambda **fields: TeamLoraConfig(
        **{"train_interaction": False, "interaction_init": "identity"} | fields
    ),
    "moelora": lambda **fields: MoeLoraConfig(**fields),
    "hydralora": lambda **fields: HydraLoraConfig(**fields),
    "hydralora with M": lambda **fields: HydraLoraConfig(**{"train_interaction": True} | fields),
}


def random_adapter(config: PeftConfig, seed: int = 3, scale: float = 1.0) -> PeftModel:
    """The tiny Llama in float64 with an adapter whose every weight is drawn from U(-scale / 2, scale / 2)."""
    model = get_peft_model(make_llama().double(), config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(scale * (noise - 0.5) * (4 if "router" in name else 1))
    return model


def routed_config(name: str, **fields: Any) -> Any:
    return ROUTED[name](**{"r": 2, "num_experts": 3, "alpha": 6} | fields)


def lora_config(**fields: Any) -> LoraConfig:
    return LoraConfig(**{"r": 8, "lora_alpha": 6, "target_modules": FFN} | fields)


def put(adapter: Adapter) -> PeftModel:
    """Put an adapter on the tiny Llama in float64; every key must find its place."""
    model = get_peft_model(make_llama().double(), adapter.config).double().eval()
    wanted = {n for n, p in model.state_dict().items() if adapter.prefix in n}
    assert len(wanted) == sum(map(len, adapter.layers().values()))
    result = set_peft_model_state_dict(model, dict(adapter.weights))
    assert not result.unexpected_keys
    return model
