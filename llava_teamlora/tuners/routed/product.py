"""The one routed low-rank product, shared by every routed method.

In: the layer's input, the stacked projections A and B, the participation of each expert. Out: the update that is
added to the frozen layer's output. Source: TeamLoRA, equations 8, 9 and 13, in their two-GEMM form

    sum_i omega_i split(x A)_i B_i  =  (x A * repeat(omega, r)) [B_1; ...; B_k]

which costs what a LoRA of rank k * r costs. These plain operations are the reference of every faster form.
"""

from collections.abc import Callable

from torch import Tensor

Map = Callable[[Tensor], Tensor]


def routed_low_rank(x: Tensor, a: Map, b: Map, participation: Tensor, r: int, scale: float) -> Tensor:
    """Compute ``scale * sum_i participation_i split(x A)_i B_i``.

    `a` and `b` are called as modules, not read as weights: hooks that gather or offload parameters must fire.

    Args:
        x: input, ``[..., D_in]``, after dropout.
        a: the down projection, ``[..., D_in] -> [..., k * r]``; one expert after the other. A projection
            shared by all experts, ``[..., D_in] -> [..., r]``, is repeated for each of them.
        b: the up projection, ``[..., k * r] -> [..., D_out]``, its inputs ordered as the outputs of `a`.
        participation: omega in the paper, the weight of each expert for each token, ``[..., k]``.
        r: rank of one expert.
        scale: alpha / r.

    Returns:
        The update, ``[..., D_out]``.
    """
    z = a(x)  # [..., k*r], or [..., r] when A is shared
    segments = z.unflatten(-1, (-1, r))  # [..., k, r], or [..., 1, r]
    mixed = segments * (participation * scale).unsqueeze(-1)  # [..., k, r]
    return b(mixed.flatten(-2).to(z.dtype))  # [..., D_out]
