"""What an adapter sits on, whatever the language model is built like: its feed-forward linears, or all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.low_rank.targets import GATED_TYPES, inside

ALL_LINEAR = "all-linear"


def aimed(method: str, options: AdapterOptions, model: PreTrainedModel) -> AdapterOptions:
    """Options with targets where the method's default would not find the language model's own, or only some of them.

    ``all-linear`` is all of the language model's linears but its head, as in LLaVA's LoRA. Differs from peft's meaning
    of the word, which takes in the vision tower and the projector.

    Args:
        method: a key of METHODS.
        options: what was said; targets that were named stay.
        model: a LLaVA or a language model.

    Raises:
        ValueError: the targets must be named, for those of this type of model are not known; lists what there is.
    """
    chosen = METHODS[method]
    if options.target_modules == ALL_LINEAR:
        within = ".*language_model.*" if any("language_model." in name for name, _ in model.named_modules()) else ".*"
        return replace(options, target_modules=rf"{within}\.({'|'.join(_linears(model))})")
    if "target_modules" not in chosen.options or options.target_modules is not None:
        return options
    own_type, text_type = model.config.model_type, model.config.get_text_config().model_type
    is_part = own_type != text_type
    scales = "feedforward_modules" in chosen.options  # IA3, which adapts attention too
    known = text_type in chosen.defaults and not is_part and not (scales and _lacks(chosen.defaults[text_type], model))
    if text_type in GATED_TYPES or known:
        return options
    targets = inside(text_type) if is_part and not scales else None
    if targets is not None:
        return replace(options, target_modules=targets)
    flags = "--target_modules and --feedforward_modules" if scales else "--target_modules"
    linears = _linears(model)
    raise ValueError(
        f"the feed-forward linears of a {text_type!r} model are not known; name them with {flags}, each a regular "
        rf"expression for whole names such as '.*\.({'|'.join(linears[:2])})'; it has {', '.join(linears)}"
    )


def _lacks(default: Mapping[str, Any], model: PreTrainedModel) -> bool:
    """Whether a default names modules that the model has no more: peft's list for IA3 is older than some models."""
    last = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return not {target.rpartition(".")[2] for target in default["target_modules"]} <= last


def _linears(model: PreTrainedModel) -> list[str]:
    """Last names of the linears in the language model's layers."""
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and "vision_tower" not in name and PROJECTOR not in name
    }
    return sorted(found - {"lm_head"})
