"""One method's adapter as another's, equal in every output.

In: an :class:`Adapter`. Out: another one that computes the same function, or a ValueError that says why none can.

- MoELoRA <-> TeamLoRA. With A = [A_1 ... A_k], split(x A)_i is x A_i: both methods compute s * sum_i omega_i x A_i B_i,
  and differ only in having an interaction matrix M or not. No weight changes but its name.
- LoRA -> TeamLoRA, a warm start. Expert i gets the i-th slice of a trained LoRA of rank k * r. Equal outputs for every
  input ask for participations that do not depend on it: the router starts at zero, so that phi_i = 1/k for each token.
  With M = I, alpha stays LoRA's: s / k = (alpha / r) / k = alpha / (k r), the LoRA's own scale, and A and B are taken
  over bit for bit. With any other M, omega_i is row i's sum over k, and B_i is divided by that sum. The router learns
  from the first step on: its gradient is that of phi, which is not zero where the experts' outputs differ.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from llava_teamlora.tuners.low_rank.layer import init_projection
from llava_teamlora.tuners.moelora.config import MoeLoraConfig
from llava_teamlora.tuners.routed.adapter import Adapter, Layer, method_name, routed_layers_of, wide
from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.router import init_interaction
from llava_teamlora.tuners.teamlora.config import TeamLoraConfig

# What every configuration of ours takes over from any other, under the same name.
_CARRIED = (
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "target_modules",
    "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
)  # fmt: skip
# LoRA's fields that are reckoned with here, and those that change nothing about saved weights.
_LORA_USED = {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
_LORA_IDLE = {
    "peft_type", "peft_version", "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "eva_config",
}  # fmt: skip
# Other ways to start a LoRA (pissa, olora, corda, loftq …) change the base's own weights too.
_HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")


def moelora_to_teamlora(adapter: Adapter, *, train_interaction: bool = True) -> Adapter:
    """Return the TeamLoRA that computes the same as a MoELoRA.

    Args:
        adapter: a MoELoRA.
        train_interaction: give it a matrix M to learn, which starts at the identity; False fixes M there. A MoELoRA
            that has an M already keeps it.

    Raises:
        ValueError: if it is no MoELoRA, or has an M that `train_interaction` would throw away.
    """
    config, layers = _routed(adapter, MoeLoraConfig, "a conversion from MoELoRA")
    if config.train_interaction and not train_interaction:
        raise ValueError("this MoELoRA has a learned interaction matrix, which train_interaction=False would lose")
    if train_interaction and not config.train_interaction:
        layers = {path: {**layer, "interaction": _identity(layer)} for path, layer in layers.items()}
    made = TeamLoraConfig(**{**_fields(config), "train_interaction": train_interaction})
    return adapter.with_layers(made, layers)


def teamlora_to_moelora(adapter: Adapter, *, keep_interaction: bool = False) -> Adapter:
    """Return the MoELoRA that computes the same as a TeamLoRA.

    Args:
        adapter: a TeamLoRA.
        keep_interaction: make a MoELoRA with an interaction matrix (the paper's ablation "competition only"), for
            plain MoELoRA has none. Without it, M must be absent or exactly the identity.

    Raises:
        ValueError: if it is no TeamLoRA, or its M would be lost.
    """
    config, layers = _routed(adapter, TeamLoraConfig, "a conversion from TeamLoRA")
    keep = keep_interaction and config.train_interaction
    if config.train_interaction and not keep:
        learned = [path for path, layer in layers.items() if not torch.equal(layer["interaction"], _identity(layer))]
        if learned:
            raise ValueError(
                f"the interaction matrix is not the identity in {len(learned)} of {len(layers)} layers (first: "
                f"{learned[0]}), and plain MoELoRA has none, so its outputs would change; keep_interaction "
                "(--keep_interaction) makes a MoELoRA with that matrix, which is equal"
            )
        layers = {path: {n: w for n, w in layer.items() if n != "interaction"} for path, layer in layers.items()}
    changed = {"train_interaction": keep} | ({} if keep else {"interaction_init": "identity"})
    return adapter.with_layers(MoeLoraConfig(**{**_fields(config), **changed}), layers)


def lora_to_teamlora(
    adapter: Adapter,
    num_experts: int,
    *,
    interaction_init: str = "identity",
    train_interaction: bool = True,
    router_hidden: int | None = None,
    seed: int = 0,
) -> Adapter:
    """Return a TeamLoRA whose experts are slices of a LoRA, and whose output is the LoRA's for every input.

    See the module's text for why. Equality holds in evaluation, and in training with the same dropout mask.

    Args:
        adapter: peft's LoRA, every rank a multiple of `num_experts`.
        num_experts: k; each expert's rank is the LoRA's divided by k.
        interaction_init: how M starts: "identity", "uniform" or "literal" (drawn anew in each layer).
        train_interaction: False fixes M at the identity, which is MoELoRA.
        router_hidden: width of an MLP router; None for a linear one. Its last map starts at zero.
        seed: of what is drawn.

    Raises:
        ValueError: if it is no LoRA, or one that a TeamLoRA cannot equal; the message names the field.
    """
    lora = adapter.config
    if not isinstance(lora, LoraConfig) or adapter.prefix != "lora_":
        raise ValueError(f"a warm start needs a LoRA of peft's, got {method_name(lora)}")
    _check_lora(lora, adapter)
    alpha = _alpha(lora, lora.r, lora.lora_alpha)
    config = TeamLoraConfig(
        **{name: copy.deepcopy(getattr(lora, name)) for name in _CARRIED},
        r=_slice(lora.r, num_experts, "r"),
        rank_pattern={n: _slice(r, num_experts, f"rank_pattern[{n!r}]") for n, r in (lora.rank_pattern or {}).items()},
        alpha=alpha,
        dropout=lora.lora_dropout,
        num_experts=num_experts,
        router_hidden=router_hidden,
        interaction_init=interaction_init,
        train_interaction=train_interaction,
    )
    layers: dict[str, Layer] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, layer in adapter.layers().items():
            pattern = lora.alpha_pattern or {}
            rank = config.at(path).r * num_experts
            if layer["A"].shape[0] != rank:
                raise ValueError(f"{path}: lora_A has rank {layer['A'].shape[0]}, but r and rank_pattern say {rank}")
            own = _alpha(lora, rank, pattern.get(get_pattern_key(list(pattern), path), lora.lora_alpha))
            layers[path] = _expert_slices(layer, config, own / alpha)
    return adapter.with_layers(config, layers)


def _expert_slices(layer: Layer, config: TeamLoraConfig, scale: float) -> Layer:
    """A LoRA's A and B under a zero router, B so scaled that the sum over the experts is `scale` times the LoRA."""
    a, b, k = layer["A"], layer["B"], config.num_experts
    made: Layer = {"A": a}
    width = a.shape[1] if config.router_hidden is None else config.router_hidden
    made["router"] = a.new_zeros(k, width)
    if config.router_hidden is not None:
        made["router_hidden"] = torch.empty(config.router_hidden, a.shape[1], dtype=a.dtype)
        init_projection(made["router_hidden"])
    factors = torch.full((k,), scale, dtype=torch.float64)
    if config.train_interaction:
        interaction = torch.empty(k, k, dtype=torch.promote_types(a.dtype, torch.float32))
        init_interaction(interaction, config.interaction_init)
        made["interaction"] = interaction
        factors = factors / interaction.double().sum(dim=1)  # omega_i = (sum of row i) / k
    made["B"] = b
    if not torch.equal(factors, torch.ones_like(factors)):
        columns = factors.repeat_interleave(b.shape[1] // k).to(b.device, wide(b).dtype)
        made["B"] = (wide(b) * columns).to(b.dtype)
    return made


def _alpha(lora: LoraConfig, rank: int, alpha: float) -> float:
    """The alpha for which our alpha / r, times the 1/k of each expert, is LoRA's scale at this rank."""
    return alpha * math.sqrt(rank) if lora.use_rslora else alpha


def _slice(rank: int, k: int, field: str) -> int:
    if k < 1 or rank % k:
        divisors = ", ".join(str(n) for n in range(1, rank + 1) if rank % n == 0)
        raise ValueError(f"a LoRA with {field}={rank} cannot be cut into {k} experts; num_experts may be {divisors}")
    return rank // k


def _check_lora(config: LoraConfig, adapter: Adapter) -> None:
    """Raise ValueError for a LoRA with anything more to it than A, B and a scale."""
    for field in fields(config):
        if field.name in _LORA_USED | _LORA_IDLE or field.name in _CARRIED:
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(config, field.name)
        if value != default:
            raise ValueError(
                f"this LoRA has {field.name}={value!r}: TeamLoRA has nothing that equals it, so its slices would not "
                "give the same output"
            )
    if config.init_lora_weights not in _HARMLESS_INITS:
        raise ValueError(
            f"this LoRA has init_lora_weights={config.init_lora_weights!r}, which changed the base's own weights too; "
            "save it as a plain LoRA first (peft: path_initial_model_for_weight_conversion)"
        )
    known = {f"{path}.lora_{name}" for path in adapter.layers() for name in ("A", "B")}
    found = {
        key.removeprefix("base_model.model.").removesuffix(".weight") for key in adapter.weights if ".lora_" in key
    }
    for key in sorted(found ^ known):
        raise ValueError(f"{key}: only lora_A and lora_B of linears can be converted, both of each")
    for path, layer in adapter.layers().items():
        if layer["A"].dim() != 2 or layer["B"].dim() != 2:
            raise ValueError(f"{path}: is not the LoRA of a linear (lora_A has shape {tuple(layer['A'].shape)})")
    if not known:
        raise ValueError("the adapter's file holds no lora_A and lora_B: there is nothing to cut into experts")


def _routed(adapter: Adapter, kind: type[RoutedConfig], task: str) -> tuple[RoutedConfig, Mapping[str, Layer]]:
    if not isinstance(adapter.config, kind):
        raise ValueError(f"{task} got an adapter of method {method_name(adapter.config)}")
    return routed_layers_of(adapter, task)


def _fields(config: RoutedConfig) -> dict[str, Any]:
    """A routed configuration's fields, for another routed configuration."""
    shared = {field.name for field in fields(RoutedConfig)} - {"peft_type", "peft_version"}
    return {name: copy.deepcopy(getattr(config, name)) for name in shared}


def _identity(layer: Layer) -> Tensor:
    router = layer["router"]
    return torch.eye(router.shape[0], dtype=torch.promote_types(router.dtype, torch.float32), device=router.device)
