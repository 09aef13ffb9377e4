"""Liger's fused linear cross-entropy in place of a model's own loss: the logits of a batch are never held.

In: ``--use_liger_kernel True`` and a model that trains. Out: the same loss, and the same gradient to rounding. Only the
hidden states that predict a trained token, those of the answers, are multiplied by the vocabulary at all, a few at a
time. Validation and generation run as before.
Differs from transformers' flag of that name: there Liger also replaces RoPE, RMSNorm and SwiGLU, for a LLaVA whatever
``--liger_kernel_config`` says; its SwiGLU would take the MLP away from the fused form of the routed methods.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.errors import UserError

# Their forward is `model`, then `lm_head`, then the loss of predicting each token from those before it.
_KNOWN = (
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


def fuse_loss(model: PreTrainedModel) -> None:
    """Have a model compute its training loss by Liger's function.

    Args:
        model: the base, with an adapter's layers in it or not.

    Raises:
        UserError: its class, or what stands in its lm_head's place, is not known to allow it.
    """
    own = type(model).forward
    owner = own.__qualname__.removesuffix(".forward")
    if owner not in _KNOWN or not own.__module__.startswith("transformers.models."):
        known = ", ".join(_KNOWN)
        raise UserError(f"--use_liger_kernel True: the forward of {type(model).__name__} is of none of {known}")
    if type(model.lm_head) is not nn.Linear or model.lm_head.bias is not None:
        raise UserError(
            f"--use_liger_kernel True reads the weight of lm_head, which is a {type(model.lm_head).__name__} here: "
            "leave it out, or keep lm_head out of --target_modules and quantisation"
        )

    @functools.wraps(own)
    def forward(self: Any, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if not self.training or labels is None:
            return own(self, *args, labels=labels, **kwargs)
        hidden = self.model(*args, **kwargs)[0]  # [B, T, D]
        loss = answer_loss(hidden, self.lm_head.weight, labels, kwargs.get("num_items_in_batch"))
        return CausalLMOutputWithPast(loss=loss)

    model.forward = types.MethodType(forward, model)  # bound, so that a copy of the model computes with its own weights


def answer_loss(hidden: Tensor, weight: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
    """Compute the mean cross-entropy of the trained tokens.

    Args:
        hidden: the last hidden states, ``[B, T, D]``.
        weight: of lm_head, ``[V, D]``.
        labels: the tokens themselves, not shifted, IGNORE_INDEX where nothing is trained, ``[B, T]``.
        count: what the sum is divided by, the trained tokens of all that makes up the step; None: their number here.

    Returns:
        A scalar; 0 where no token is trained.
    """
    cross_entropy = _liger_function()
    targets = labels[:, 1:].to(hidden.device)  # [B, T - 1]
    trained = targets != IGNORE_INDEX
    rows = hidden[:, :-1][trained]  # [N, D]
    if not len(rows):
        return hidden.sum().float() * 0.0
    total = cross_entropy(rows, weight, targets[trained], reduction="sum")
    return total / (len(rows) if count is None else torch.as_tensor(count, device=total.device))


def _liger_function() -> Callable[..., Any]:
    from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
        liger_fused_linear_cross_entropy,
    )

    return liger_fused_linear_cross_entropy
