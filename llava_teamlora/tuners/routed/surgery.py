"""Experts taken out of a routed adapter, or doubled. What stays equal, and what cannot.

In: an :class:`Adapter` of any routed method. Out: another one. A layer adds s * sum_i omega_i z_i B_i with
omega = M phi and phi = softmax(logits), so an expert is tied to the others by the softmax's common denominator: its
own term is easily removed, its part in the denominator is not, for that differs from token to token.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from llava_teamlora.tuners.routed.adapter import Adapter, Layer, routed_layers_of, shares_down_projection, wide
from llava_teamlora.tuners.routed.config import RoutedConfig


def drop_experts(adapter: Adapter, experts: Sequence[int], *, renormalise: bool = False) -> Adapter:
    """Return the adapter without what some experts add.

    Without `renormalise`, the others add to every token exactly what they did. For that their softmax must still know
    the dropped experts' logits, so these keep their places, k stays, and their B (and their slice of A) becomes zero;
    with both zero no gradient reaches them again. In HydraLoRA A is everybody's and stays, so that a dropped expert
    would learn anew if training goes on: freeze it.

    With `renormalise` they are gone altogether and k is smaller. The softmax runs over those that are left, so each
    phi_i is divided by 1 - sum(phi of the dropped), which differs from token to token: the ratios among the phi that
    are left stay exactly as they were, and they sum to one again. M loses the dropped rows, and the dropped columns:
    what an absent expert's Shapley value did to the others is gone too. The output is another one, except where the
    dropped experts had no share.

    Args:
        adapter: of any routed method.
        experts: their numbers, counted from 0.
        renormalise: whether the softmax of those left takes over the share of the dropped.

    Raises:
        ValueError: if there is no such expert, or none would be left.
    """
    config, layers = routed_layers_of(adapter, "dropping experts")
    _check_numbers(config, experts)
    left = [expert for expert in range(config.num_experts) if expert not in experts]
    if not left:
        raise ValueError(f"dropping experts {sorted(experts)} would leave none of {config.num_experts}")
    if not renormalise:
        silenced = {path: _silence(layer, config.at(path), experts) for path, layer in layers.items()}
        return adapter.with_layers(deepcopy(config), silenced)
    chosen = {path: _choose(layer, config.at(path), left) for path, layer in layers.items()}
    return adapter.with_layers(replace(deepcopy(config), num_experts=len(left)), chosen)


def clone_expert(adapter: Adapter, expert: int, *, spread: float = 0.1, seed: int = 0) -> Adapter:
    """Return the adapter with one expert twice, the copy last; nearly the same output.

    Both copies have the router's row, so they always share alike. An exact copy is impossible: a router without bias
    cannot take log 2 off two logits, and one logit more makes phi_i * 1 / (1 + phi_e) of every phi_i, e being the
    cloned expert. Folding the rest into M (into B, where M is fixed), the update of each token is multiplied by

        (1 + 1/k) / (1 + phi_e)

    and changed in nothing else: exactly 1 where phi_e = 1/k (so wherever the router is still at zero), between
    (1 + 1/k) / 2 for a token that is all the expert's, and 1 + 1/k for one it has no share in. To double every
    expert is exact: see :func:`clone_all_experts`.

    Args:
        adapter: of any routed method.
        expert: its number, counted from 0.
        spread: how far the copies are set apart, as a share of the root mean square of B's slice. One gets as much
            noise as the other loses, so the output is not touched, but copies that are alike would stay alike for
            ever, their gradients being the same. 0 leaves them so.
        seed: of the noise.

    Raises:
        ValueError: if there is no such expert.
    """
    config, layers = routed_layers_of(adapter, "cloning an expert")
    _check_numbers(config, [expert])
    k = config.num_experts
    order, gain = [*range(k), expert], 1.0 + 1.0 / k
    shares = torch.ones(k + 1, dtype=torch.float64)
    shares[[expert, k]] = 0.5
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for path, layer in layers.items():
        here = config.at(path)
        new = _choose(layer, here, order)
        if config.train_interaction:
            # Each row's weight on the cloned column is halved over both; a copy's own row has it all on its own.
            scale = gain * shares[:, None] * shares[None, :]
            scale[expert, expert] = scale[k, k] = gain / 2
            scale[expert, k] = scale[k, expert] = 0.0
            interaction = new["interaction"]
            new["interaction"] = (interaction.double() * scale.to(interaction.device)).to(interaction.dtype)
        else:
            new["B"] = _scale_columns(new["B"], gain * shares, here.r)
        new["B"] = _set_apart(new["B"], [(expert, k)], here.r, spread, generator)
        made[path] = new
    return adapter.with_layers(replace(deepcopy(config), num_experts=k + 1), made)


def clone_all_experts(adapter: Adapter, *, spread: float = 0.1, seed: int = 0) -> Adapter:
    """Return the adapter with every expert twice and exactly the same output; expert i's copy is k + i.

    With every logit twice, phi becomes (phi, phi) / 2 for every token, and M twice on a block diagonal makes
    (omega, omega) / 2 of it: each pair adds what its expert did.

    Args:
        adapter: of any routed method.
        spread: see :func:`clone_expert`.
        seed: of the noise.
    """
    config, layers = routed_layers_of(adapter, "cloning experts")
    k = config.num_experts
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for path, layer in layers.items():
        here = config.at(path)
        new = _choose(layer, here, [*range(k), *range(k)])
        if config.train_interaction:
            new["interaction"] = torch.block_diag(layer["interaction"], layer["interaction"])
        new["B"] = _set_apart(new["B"], [(i, k + i) for i in range(k)], here.r, spread, generator)
        made[path] = new
    return adapter.with_layers(replace(deepcopy(config), num_experts=2 * k), made)


def expert_slice(expert: int, r: int) -> slice:
    """Return the rows of A and columns of B that an expert owns."""
    return slice(expert * r, (expert + 1) * r)


def _choose(layer: Layer, config: RoutedConfig, experts: Sequence[int]) -> Layer:
    """Copies of the layer's weights with these experts in this order, rows and columns of M too."""
    index = torch.tensor(experts)
    owned = torch.cat([torch.arange(config.r) + expert * config.r for expert in experts])
    made = {name: weight.clone() for name, weight in layer.items()}
    made["B"] = layer["B"][:, owned]
    made["router"] = layer["router"][index]
    if not shares_down_projection(config):
        made["A"] = layer["A"][owned]
    if "interaction" in layer:
        made["interaction"] = layer["interaction"][index][:, index]
    return made


def _silence(layer: Layer, config: RoutedConfig, experts: Sequence[int]) -> Layer:
    made = {name: weight.clone() for name, weight in layer.items()}
    for expert in experts:
        made["B"][:, expert_slice(expert, config.r)] = 0
        if not shares_down_projection(config):
            made["A"][expert_slice(expert, config.r)] = 0
    return made


def _scale_columns(b: Tensor, factors: Tensor, r: int) -> Tensor:
    """Multiply each expert's columns of B by its factor."""
    return (b.double() * factors.repeat_interleave(r).to(b.device)).to(b.dtype)


def _set_apart(
    b: Tensor, pairs: Sequence[tuple[int, int]], r: int, spread: float, generator: torch.Generator
) -> Tensor:
    """Add noise to the first of each pair of equal slices of B and take it from the second."""
    b = b.clone()
    for first, second in pairs:
        one, other = b[:, expert_slice(first, r)], b[:, expert_slice(second, r)]
        noise = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(b.device)
        noise = (noise * spread * wide(one).square().mean().sqrt()).to(b.dtype)
        one += noise
        other -= noise
    return b


def _check_numbers(config: RoutedConfig, experts: Sequence[int]) -> None:
    for expert in experts:
        if not 0 <= expert < config.num_experts:
            raise ValueError(f"there is no expert {expert}: this adapter has experts 0 to {config.num_experts - 1}")
    if not experts or len(set(experts)) < len(experts):
        raise ValueError(f"name each expert once, and at least one; got {list(experts)}")
