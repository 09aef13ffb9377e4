"""Router and interaction matrix: from a token to the participation of each expert.

In: the layer's input, without dropout. Out: logits, Shapley values phi (equation 11) and, through the interaction
matrix M, participations omega (equation 12). All of it in single precision at least: a softmax in half precision
cannot tell close experts apart.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_teamlora.tuners.routed.gradients import no_autocast

INTERACTION_INITS = ("uniform", "literal", "identity")


class WideLinear(nn.Linear):
    """A linear map without bias, computed in float32 or wider whatever its input's and weight's dtype."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``, float32 or wider."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with no_autocast(x):
            return F.linear(x.to(dtype), self.weight.to(dtype))


def router_logits(x: Tensor, hidden: nn.Module | None, out: nn.Module) -> Tensor:
    """Score each expert for each token: ``x W``, or ``gelu(x W_1) W_2`` for an MLP router.

    Args:
        x: input, ``[..., D_in]``.
        hidden: the MLP's first map, ``D_in -> H``; None for a linear router.
        out: the map to the experts, ``D_in -> k`` or ``H -> k``.

    Returns:
        S(x) in equation 11, ``[..., k]``, float32 or wider.
    """
    if hidden is not None:
        x = F.gelu(hidden(x))  # [..., H]
    return out(x)  # [..., k]


def shapley_values(logits: Tensor) -> Tensor:
    """Return phi, the softmax of the logits over the experts (equation 11), ``[..., k]``."""
    return torch.softmax(logits, dim=-1)


def init_interaction(weight: Tensor, init: str) -> None:
    """Fill the interaction matrix M in place, with 1 on its diagonal.

    Args:
        weight: M, ``[k, k]``; row i mixes all Shapley values into expert i's participation.
        init: "uniform" draws the rest from U(0, 1/k), which keeps M well conditioned and the participations
            near 1 in sum; "literal" from U(0, 1), the paper's wording; "identity" leaves zeros.

    Raises:
        ValueError: if `init` is none of these.
    """
    if init not in INTERACTION_INITS:
        raise ValueError(f"interaction_init must be one of {', '.join(INTERACTION_INITS)}, got {init!r}")
    with torch.no_grad():
        if init == "identity":
            weight.zero_()
        else:
            weight.uniform_(0.0, 1.0 / weight.shape[0] if init == "uniform" else 1.0)
        weight.fill_diagonal_(1.0)
