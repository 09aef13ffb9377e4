"""PEFT methods by name: one literal dict, METHODS. Importing this package registers our own methods with peft."""

from peft import PeftConfig

from llava_teamlora.tuners import from_peft
from llava_teamlora.tuners.from_peft import ADALORA_OPTIONS, IA3_DEFAULTS, LORA_OPTIONS
from llava_teamlora.tuners.hydralora import HydraLoraConfig
from llava_teamlora.tuners.method import FFN, AdapterOptions, Method, ours
from llava_teamlora.tuners.moelora import MoeLoraConfig
from llava_teamlora.tuners.moslora import MosLoraConfig
from llava_teamlora.tuners.teamlora import TeamLoraConfig

__all__ = ["METHODS", "AdapterOptions", "Method", "build_config"]

METHODS: dict[str, Method] = {
    "teamlora": ours(TeamLoraConfig, "TeamLoRA: k experts share A's work, weighted by M times the router"),
    "moelora": ours(MoeLoraConfig, "MoELoRA: k whole LoRA experts, weighted by the router"),
    "hydralora": ours(HydraLoraConfig, "HydraLoRA: one A for all, k experts B, weighted by the router"),
    "moslora": ours(MosLoraConfig, "MoSLoRA: LoRA with a learned mixer between A and B"),
    "lora": Method(
        name="lora",
        summary="LoRA, peft's own: one A, one B, no routing",
        options=LORA_OPTIONS,
        make=from_peft.lora,
        count=from_peft.count_lora,
        defaults=FFN,
    ),
    "adalora": Method(
        name="adalora",
        summary="AdaLoRA, peft's own: ranks pruned by importance while training",
        options=ADALORA_OPTIONS,
        make=from_peft.adalora,
        count=from_peft.count_adalora,
        defaults=FFN,
        least_r=2,
    ),
    "ia3": Method(
        name="ia3",
        summary="IA3, peft's own: learned scales of keys, values and FFN inputs",
        options=("target_modules", "feedforward_modules", "modules_to_save"),
        make=from_peft.ia3,
        count=from_peft.count_ia3,
        defaults=IA3_DEFAULTS,
    ),
    "prompt_tuning": Method(
        name="prompt_tuning",
        summary="prompt tuning, peft's own: learned virtual tokens before the input",
        options=("num_virtual_tokens", "modules_to_save"),
        make=from_peft.prompt_tuning,
        count=from_peft.count_prompt_tuning,
    ),
    "projector": Method(
        name="projector",
        summary="no adapter: the projector alone is trained",
        options=("modules_to_save",),
        make=from_peft.modules_only,
        count=from_peft.count_nothing,
    ),
    "full": Method(
        name="full",
        summary="full fine-tuning of language model and projector",
        options=("modules_to_save",),
        make=from_peft.full,
        count=from_peft.count_nothing,
    ),
}


def build_config(method: str, options: AdapterOptions, model_type: str | None = None) -> PeftConfig:
    """Build the configuration of the method of this name.

    Args:
        method: a key of METHODS.
        options: what is said of the adapter.
        model_type: of the model to adapt (``model.config.model_type``): says what is adapted by default.

    Raises:
        ValueError: if there is no such method, it has no adapter, or the options do not fit it.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    config = METHODS[method].build(options, model_type)
    if config is None:
        raise ValueError(f"method {method!r} puts no adapter on the model: train its own weights")
    return config
