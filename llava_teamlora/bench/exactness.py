"""How far a variant is from its own equation, computed in float64 by the plainest loop, expert after expert.

In: a built case. Out: relative errors (norm of the difference over the norm) of the output and of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_teamlora.bench.parts import Parts, Shape, Whole, base_weight, parts_of


@dataclass(frozen=True)
class Errors:
    """Relative errors.

    Attributes:
        y: of the output.
        gradients: the largest among those of the input, A, B, the router and M.
    """

    y: float
    gradients: float


def equation(name: str, x: Tensor, weight: Tensor, whole: Whole, shape: Shape) -> Tensor:
    """Compute an adapted linear.

    Args:
        name: "base", "lora", "moelora", "hydralora" or "teamlora" (where M may be absent).
        x: ``[N, D_in]``.
        weight: W_0.
        whole: the adapter's weights.
        shape: its sizes; dropout is not in the equation.
    """
    y = x @ weight.T
    if name == "base":
        return y
    assert whole.a is not None and whole.b is not None
    if name == "lora":
        return y + shape.scale * (x @ whole.a.T @ whole.b.T)
    assert whole.router is not None
    shares = torch.softmax(x @ whole.router.T, dim=-1)  # [N, k]
    if whole.interaction is not None:
        shares = shares @ whole.interaction.T
    for i in range(shape.k):
        own = slice(i * shape.r, (i + 1) * shape.r)
        a = whole.a if name == "hydralora" else whole.a[own]
        y = y + shape.scale * shares[:, i : i + 1] * (x @ a.T @ whole.b[:, own].T)
    return y


def errors_of(
    run: Callable[[Tensor], Tensor], linears: Mapping[str, nn.Module], x: Tensor, name: str, shape: Shape
) -> Errors:
    """Compare a linear, or an MLP with three, with its equation.

    Args:
        run: computes it.
        linears: its adapted linears: one, or "gate_proj", "up_proj" and "down_proj".
        x: input ``[1, N, D_in]``, with requires_grad.
        name: of the equation.
        shape: of the adapters.
    """
    layers = list(linears.values())
    pieces = [parts_of(layer) for layer in layers]
    y = run(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    found = torch.autograd.grad(y, [x, *(piece for parts in pieces for piece in parts.all())], dy)
    wide = x.detach().double()[0].requires_grad_()
    wholes = [Whole(*(None if t is None else t.detach().requires_grad_() for t in Whole.of(p))) for p in pieces]
    maps = [(base_weight(layer).double(), whole) for layer, whole in zip(layers, wholes, strict=True)]

    def linear(place: int, value: Tensor) -> Tensor:
        return equation(name, value, *maps[place], shape)

    exact = linear(0, wide) if len(layers) == 1 else linear(2, F.silu(linear(0, wide)) * linear(1, wide))
    leaves = [wide, *(t for whole in wholes for t in whole if t is not None)]
    right = torch.autograd.grad(exact, leaves, dy.double()[0])
    mine = [found[0][0].double(), *_whole_gradients(pieces, list(found[1:]))]
    worst = max(_relative(one, other) for one, other in zip(mine, right, strict=True))
    return Errors(_relative(y.detach().double()[0], exact.detach()), worst)


def _whole_gradients(pieces: list[Parts], gradients: list[Tensor]) -> list[Tensor]:
    """Gradients of pieces, put together as the weights are."""
    found: list[Tensor] = []
    for parts in pieces:
        taken = Parts(*(tuple(gradients.pop(0) for _ in kind) for kind in parts))
        found.extend(whole for whole in Whole.of(taken) if whole is not None)
    return found


def _relative(one: Tensor, other: Tensor) -> float:
    return float(f"{((one - other).norm() / other.norm()).item():.2g}")
