"""The methods that peft brings itself, under the same options as ours, and two references without an adapter.

Each maker turns the options said into peft's own configuration; each counter is the method's formula.
"""

import re
from collections.abc import Sequence
from typing import Any

from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PromptTuningConfig
from peft.utils.constants import (
    DUMMY_TARGET_MODULES,
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from peft.utils.other import get_pattern_key

from llava_teamlora.tuners.low_rank.targets import GATED_TYPES
from llava_teamlora.tuners.method import Site

LORA_OPTIONS = ("r", "alpha", "dropout", "bias", "rank_pattern", "target_modules", "modules_to_save")
ADALORA_OPTIONS = ("r", "alpha", "dropout", "target_r", "total_step", "target_modules", "modules_to_save")
_BIAS = ("none", "all", "lora_only")
_LORA_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}

_LLAVA_IA3 = {
    "target_modules": r".*language_model.*\.(k_proj|v_proj|down_proj)",
    "feedforward_modules": r".*language_model.*\.down_proj",
}
_GATED_IA3 = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
IA3_DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(GATED_TYPES, _GATED_IA3),
    **{
        model_type: {
            "target_modules": targets,
            "feedforward_modules": TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[model_type],
        }
        for model_type, targets in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.items()
        if model_type in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    },
    "llava": _LLAVA_IA3,
    "llava_next": _LLAVA_IA3,
}
"""IA3 scales keys, values and the input of the FFN's last linear. In a LLaVA: the language model's alone."""


def lora(said: dict[str, Any]) -> LoraConfig:
    """LoRA with our defaults for rank and alpha.

    Raises:
        ValueError: without `target_modules`, or when `bias` is not one of peft's words.
    """
    _need_targets("lora", said)
    if said.get("bias", "none") not in _BIAS:
        raise ValueError(f"method 'lora': bias must be one of {', '.join(_BIAS)}, got {said['bias']!r}")
    named: dict[str, Any] = {"r": 8, "alpha": 16, **said}
    return LoraConfig(**{_LORA_NAMES.get(name, name): value for name, value in named.items()})


def count_lora(config: PeftConfig, sites: Sequence[Site]) -> int:
    """r (D_in + D_out) a linear."""
    assert isinstance(config, LoraConfig)
    ranks = config.rank_pattern or {}
    return sum(
        ranks.get(get_pattern_key(list(ranks), site.name), config.r) * (site.d_in + site.d_out) for site in sites
    )


def adalora(said: dict[str, Any]) -> AdaLoraConfig:
    """AdaLoRA, which starts at rank `r` and prunes to `target_r` on average (not said: two thirds of r).

    The schedule's phases are shares of `total_step`; see `adalora_schedule`. Whoever trains calls
    ``model.base_model.update_and_allocate(step)`` after each optimizer step, while the gradients are still there.

    Raises:
        ValueError: without `target_modules` or `total_step`, or when there is nothing to prune.
    """
    _need_targets("adalora", said)
    named: dict[str, Any] = {"r": 12, "alpha": 16, **said}
    if named.get("total_step") is None:
        raise ValueError("method 'adalora' needs total_step, the number of optimizer steps, for its rank schedule")
    rank, total = named.pop("r"), named["total_step"]
    target = named.setdefault("target_r", max(1, 2 * rank // 3))
    if not 1 <= target < rank:
        raise ValueError(
            f"method 'adalora' starts at rank r={rank} and prunes to target_r={target}: r must be at least 2 and "
            "target_r smaller"
        )
    renamed = {_LORA_NAMES.get(name, name): value for name, value in named.items()}
    return AdaLoraConfig(init_r=rank, **adalora_schedule(total), **renamed)


def adalora_schedule(total_step: int) -> dict[str, int]:
    """Return AdaLoRA's phases: 10 % of the steps at full rank, the last 30 % at the final ranks, pruning between.

    Args:
        total_step: optimizer steps of the whole training, >= 4.

    Returns:
        Fields of AdaLoraConfig: tinit and tfinal, in steps, and deltaT, the steps from one pruning to the next.

    Raises:
        ValueError: if there are too few steps for three phases.
    """
    if total_step < 4:
        raise ValueError(f"AdaLoRA's schedule needs at least 4 optimizer steps, got {total_step}: train longer")
    return {
        "tinit": max(1, round(0.1 * total_step)),
        "tfinal": max(1, round(0.3 * total_step)),
        "deltaT": max(1, total_step // 100),
    }


def count_adalora(config: PeftConfig, sites: Sequence[Site]) -> int:
    """r (D_in + D_out + 1) a linear, r the rank at the start: what is trained, not what is left at the end."""
    assert isinstance(config, AdaLoraConfig)
    return sum(config.init_r * (site.d_in + site.d_out + 1) for site in sites)


def ia3(said: dict[str, Any]) -> IA3Config:
    """IA3: learned scales of outputs, and of inputs for `feedforward_modules`.

    Raises:
        ValueError: `target_modules` without saying which of them are feed-forward.
    """
    if "target_modules" not in said:
        raise ValueError("method 'ia3' needs target_modules and feedforward_modules: this model type has no default")
    if "feedforward_modules" not in said:
        raise ValueError(
            "method 'ia3' with target_modules needs feedforward_modules too: those of the targets whose input is "
            "scaled (the FFN's last linear)"
        )
    return IA3Config(**said)


def count_ia3(config: PeftConfig, sites: Sequence[Site]) -> int:
    """D_out a linear; D_in where the input is scaled."""
    assert isinstance(config, IA3Config)
    scaled_inputs = config.feedforward_modules or ()
    return sum(site.d_in if _matches(scaled_inputs, site.name) else site.d_out for site in sites)


def prompt_tuning(said: dict[str, Any]) -> PromptTuningConfig:
    """Prompt tuning: virtual tokens before everything else, the pictures too."""
    return PromptTuningConfig(**({"num_virtual_tokens": 20, "task_type": "CAUSAL_LM"} | said))


def count_prompt_tuning(config: PeftConfig, sites: Sequence[Site]) -> int:
    """n D, D the width of the model; the site is the embedding."""
    assert isinstance(config, PromptTuningConfig)
    return sum((config.num_virtual_tokens or 0) * site.d_out for site in sites)


def modules_only(said: dict[str, Any]) -> LoraConfig:
    """No adapter, only `modules_to_save`: peft's own way to say so, which every reader of peft understands.

    Raises:
        ValueError: without `modules_to_save`, when nothing would be trained.
    """
    if not said.get("modules_to_save"):
        raise ValueError("method 'projector' trains modules_to_save alone: name them (here the projector is frozen)")
    return LoraConfig(target_modules=DUMMY_TARGET_MODULES, **said)


def full(said: dict[str, Any]) -> None:
    """Full fine-tuning: no configuration, the model's own weights are trained."""


def count_nothing(config: PeftConfig, sites: Sequence[Site]) -> int:
    """Return 0: there is no adapter."""
    return 0


def _need_targets(method: str, said: dict[str, Any]) -> None:
    if "target_modules" not in said:
        raise ValueError(
            f"method {method!r} needs target_modules: peft's own default for it is the attention, not the "
            "feed-forward linears that TeamLoRA adapts"
        )


def _matches(names: Any, path: str) -> bool:
    """peft's rule: a string is a pattern for the whole path, a collection holds endings."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(f".{path}".endswith(f".{name}") for name in names)
