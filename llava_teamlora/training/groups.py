"""Optimizer groups: parts of an adapter with a learning rate and a weight decay of their own.

In: a model's parameters by name, and what the arguments say of parts. Out: groups for the optimizer. A weight's part is
the last word of peft's name for it: ``teamlora_A`` and ``lora_A`` are part A.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import nn

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.training.flags.arguments import TrainingArguments

REST = "adapter"


def part_of(name: str) -> str:
    """Part that a trained parameter belongs to: A, B, router, interaction, mixer, …, projector, else "model"."""
    if PROJECTOR in name:
        return "projector"
    prefixes = "|".join(sorted(map(re.escape, set(PEFT_TYPE_TO_PREFIX_MAPPING.values()))))
    match = re.search(rf"\.(?:{prefixes})([A-Za-z]+)", name)
    if match is not None:
        return match.group(1)  # router_hidden, the router's first map, is part of the router
    return "prompt" if "prompt_encoder" in name else "model"


def has_groups(arguments: TrainingArguments) -> bool:
    """Whether any part has a learning rate or weight decay of its own."""
    return bool(learning_rates(arguments) or arguments.weight_decays())


def learning_rates(arguments: TrainingArguments) -> dict[str, float]:
    """Peak learning rates of the parts that have their own."""
    own = arguments.learning_rates()
    return own if arguments.mm_projector_lr is None else {**own, "projector": arguments.mm_projector_lr}


def check_parts(model: nn.Module, arguments: TrainingArguments) -> None:
    """Refuse learning rates and weight decays of parts that the model does not train.

    Raises:
        UserError: naming the part and those there are.
    """
    if not has_groups(arguments):
        return
    parts = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for flag, named in (("group_lr", arguments.learning_rates()), ("group_weight_decay", arguments.weight_decays())):
        if missing := sorted(named.keys() - parts):
            known = ", ".join(sorted(parts))
            raise UserError(f"--{flag}: nothing that is trained is called {missing[0]!r}; parts: {known}")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], decayed: Collection[str], arguments: TrainingArguments
) -> list[dict]:
    """Sort trained parameters into optimizer groups {part with settings of its own, the rest} x {decayed, not}.

    Args:
        parameters: the model's, by name; frozen ones are left out.
        decayed: names of those that weight decay may touch (no biases, no norms).
        arguments: with learning rates and weight decays.
    """
    lr, decay = learning_rates(arguments), arguments.weight_decays()
    trained = [(name, p, part_of(name)) for name, p in parameters if p.requires_grad]
    groups: dict[tuple[str, bool], dict] = {}
    for name, parameter, part in trained:
        own, decays = part if part in lr or part in decay else REST, name in decayed
        group = groups.setdefault(
            (own, decays),
            {
                "params": [],
                "lr": lr.get(own, arguments.learning_rate),
                "weight_decay": decay.get(own, arguments.weight_decay) if decays else 0.0,
                "name": own if decays else f"{own}, no decay",
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0] != REST, key[0], not key[1]))]
