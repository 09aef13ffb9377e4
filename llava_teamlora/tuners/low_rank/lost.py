"""Adapter weights that were lost before or in their file, told at saving and at loading instead of never.

In: tensors by name. Out: nothing, or a LostWeights with the remedy. DeepSpeed's ZeRO-3 and FSDP split weights over
processes; saved without gathering them first, a file holds empty tensors, or none, and loads without a word. A fresh
adapter has B = 0, but A is never zero: with both zero no gradient would reach either.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

REMEDY = (
    "the weights were lost before they were saved, as when DeepSpeed ZeRO-3 or FSDP has split them over processes: "
    "gather them, on all processes, and save that: model.save_pretrained(folder, "
    "state_dict=accelerator.get_state_dict(wrapped_model), is_main_process=accelerator.is_main_process); DeepSpeed's "
    'configuration must say "stage3_gather_16bit_weights_on_model_save": true for that'
)


class LostWeights(ValueError):
    """Weights that cannot be an adapter's; the message names one and the remedy."""


class DownProjection(nn.Linear):
    """A: a linear without bias, ``D_in -> D_out``, that is never zero.

    peft loads by load_state_dict, where the layer looks at what comes. transformers' own load_adapter sets one
    parameter after the other, and marks each of them.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, Tensor) and getattr(value, "_is_hf_initialized", False):
            refuse_lost({"the weight A of an adapter": value}, "A")
        super().__setattr__(name, value)


def refuse_lost(weights: Mapping[str, Tensor], down_projection: str) -> None:
    """Refuse weights that cannot be an adapter's.

    Args:
        weights: an adapter's weights, or some of them; those that cannot be looked at (on the meta device, or a
            DTensor, of which a part is elsewhere) are passed over.
        down_projection: regular expression found in the names of the A's.

    Raises:
        LostWeights: if a weight is empty or an A zero, naming it and the remedy.
    """
    for name, weight in weights.items():
        if weight.is_meta or hasattr(weight, "full_tensor"):
            continue
        if weight.numel() == 0:
            if weight.dim() < 2:  # AdaLoRA writes [0, D_in] where it has pruned every rank
                raise LostWeights(f"{name} is empty (shape {list(weight.shape)}): {REMEDY}")
        elif re.search(down_projection, name) and not weight.any():
            raise LostWeights(f"{name} is zero throughout, as no adapter's A ever is: {REMEDY}")


def refuse_lost_file(weights: Mapping[str, Tensor]) -> None:
    """Refuse what was read from an adapter file, of any method, if nothing can have been learned in it.

    Raises:
        LostWeights: if it holds no weights, an empty one, an A that is zero, or nothing but zeros.
    """
    if not weights:
        raise LostWeights(f"it holds no weights: {REMEDY}")
    refuse_lost(weights, r"_A(\.weight)?$")
    if not any(weight.any() for weight in weights.values()):
        raise LostWeights(f"it holds nothing but zeros: {REMEDY}")


def is_writer() -> bool:
    """Whether this process is the one that writes files, where there are several."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0
