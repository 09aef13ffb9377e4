"""Auxiliary losses on the router: load balance and z-loss.

In: router logits of the positions that count. Out: scalars. The z-loss is a mean over positions, so micro-batches
and devices averaged by their positions give that of the whole batch. The balance loss is a product of two means, each
over one micro-batch on one device, as in Switch Transformers: an average of such products is not the whole batch's
balance loss, but asks every micro-batch to be balanced by itself. Source: Switch Transformers (Fedus et al., 2022),
equation 4; ST-MoE (Zoph et al., 2022), equation 5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def balance_loss(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return ``k * sum_i f_i P_i``, 1 when the load is even and k when one expert takes all.

    f_i is the share of positions whose highest Shapley value is expert i's (no gradient), P_i the mean of phi_i.

    Args:
        logits: router logits, ``[..., k]``.
        valid: which positions count, ``[...]``; None counts all. If none counts, the loss is 0.
    """
    phi = torch.softmax(logits, dim=-1)  # [..., k]
    chosen = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(phi.dtype)  # [..., k]
    return logits.shape[-1] * (masked_mean(chosen, valid) * masked_mean(phi, valid)).sum()


def router_z_loss(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean square of ``logsumexp(logits)``, which keeps the router's logits small.

    Args:
        logits: router logits, ``[..., k]``.
        valid: which positions count, ``[...]``; None counts all. If none counts, the loss is 0.
    """
    return masked_mean(torch.logsumexp(logits, dim=-1).square().unsqueeze(-1), valid).sum()


def masked_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Average values ``[..., n]`` over the valid positions ``[...]`` into ``[n]``; zeros if none is valid."""
    values = values.flatten(0, -2)  # [N, n]
    if valid is None:
        return values.mean(dim=0)
    weights = valid.flatten().to(values.dtype)  # [N]
    return (weights @ values) / weights.sum().clamp(min=1.0)
