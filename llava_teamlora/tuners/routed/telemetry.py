"""Routing telemetry: what every router did to every group of positions, as running sums.

In: a model with routed adapters, and for each pass which positions count and which groups they belong to. Out: one
LayerRouting for each layer and adapter, over all positions since the last. Off, that is outside `observe`, there is
no hook and no operation. Inside, each pass adds one small matrix product per layer to sums that stay on the layer's
device, without waiting for it; their size does not grow with the number of steps.

    telemetry = RoutingTelemetry(model, groups=("image", "text"))
    with telemetry.observe(attention_mask, {"image": is_image, "text": ~is_image}):
        model(input_ids=..., attention_mask=attention_mask)
    rows = telemetry.collect()
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llava_teamlora.tuners.routed.auxiliary import record_routing
from llava_teamlora.tuners.routed.layer import RoutedLinear, RoutingRecord
from llava_teamlora.tuners.routed.statistics import LayerRouting, features, group_routing, interaction_state, wide_dtype

ALL = "all"
"""The group of every position that counts; always there."""

Key = tuple[str, str]  # name of the layer, name of the adapter
Reduce = Callable[[Tensor], Tensor]


class RoutingTelemetry:
    """Running statistics of the routed layers of a model.

    Args:
        model: whose passes are watched. It may be wrapped and called through its wrapper (peft, DDP, DeepSpeed).
        groups: names of the groups that `observe` may be given.
        dead_below: share of the even load 1 / k below which an expert is dead, from 0 to 1.

    Raises:
        ValueError: the model has no routed layer, a group's name is taken, or `dead_below` is out of range.
    """

    def __init__(self, model: nn.Module, groups: Sequence[str] = (), dead_below: float = 0.01) -> None:
        self.groups = (ALL, *groups)
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"groups must differ from each other and from {ALL!r}, got {list(groups)}")
        if not 0 <= dead_below <= 1:
            raise ValueError(f"dead_below must be from 0 to 1, got {dead_below}")
        self.dead_below = dead_below
        self._model = model
        layers = {name: module for name, module in model.named_modules() if isinstance(module, RoutedLinear)}
        if not layers:
            raise ValueError(f"{type(model).__name__} has no routed layer: put a routed adapter on it first")
        self._layers = layers
        self._names = {module: name for name, module in layers.items()}
        self._experts = {
            (name, adapter): int(config.num_experts)
            for name, layer in layers.items()
            for adapter, config in layer.adapter_configs.items()
        }
        self._start = {key: self._interaction(key) for key in self._experts}
        self._sums: dict[Key, Tensor] = {}

    # Watching ---------------------------------------------------------------------------------------------

    @contextmanager
    def observe(self, valid: Tensor, groups: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Count what the model's forward passes inside the context route; the backward pass may be inside too.

        Layers that see other positions than these (those of a vision tower, say) count all of theirs, for the
        group "all" alone.

        Args:
            valid: which positions count (an attention mask), ``[B, T]``; no group counts any other.
            groups: members of each group, ``[B, T]``. A declared group that is left out has none.

        Raises:
            ValueError: a group was not declared, or a shape differs.
        """
        masks = self._masks(valid, groups or {})
        listening = ExitStack()
        records: list[RoutingRecord] = []

        def start_pass(module: nn.Module, args: Any) -> None:
            """Listen, also where a pass that raised left a listener."""
            nonlocal records
            listening.close()
            records = listening.enter_context(record_routing(self._model))

        def end_pass(module: nn.Module, args: Any, output: Any) -> None:
            """Count here already, so that a recomputation in the backward pass does not."""
            listening.close()
            self._add(records, masks)

        handles = (self._model.register_forward_pre_hook(start_pass), self._model.register_forward_hook(end_pass))
        try:
            yield
        finally:
            listening.close()
            for handle in handles:
                handle.remove()

    def _masks(self, valid: Tensor, groups: Mapping[str, Tensor]) -> Tensor:
        """Stack the groups' members that count, in the order of `self.groups`: bool, ``[G, B, T]``."""
        for name, members in groups.items():
            if name not in self.groups[1:]:
                raise ValueError(f"group {name!r} was not declared; declared are {list(self.groups[1:])}")
            if members.shape != valid.shape:
                raise ValueError(f"group {name!r} has shape {tuple(members.shape)}, valid has {tuple(valid.shape)}")
        if valid.dim() != 2:
            raise ValueError(f"valid must be [B, T], got shape {tuple(valid.shape)}")
        counts = valid != 0
        nobody = torch.zeros_like(counts)
        members = [(groups[name] != 0) & counts if name in groups else nobody for name in self.groups[1:]]
        return torch.stack([counts, *members])

    @torch.no_grad()
    def _add(self, records: Sequence[RoutingRecord], masks: Tensor) -> None:
        """Add one pass to the sums."""
        by_place: dict[Any, Tensor] = {}
        for record in records:
            key = (self._names[record.layer], record.adapter)
            if key not in self._experts:
                raise ValueError(
                    f"adapter {record.adapter!r} was added after this RoutingTelemetry was made: make a new one"
                )
            device, positions = record.logits.device, record.logits.shape[:-1]
            if (device, positions) not in by_place:
                by_place[device, positions] = _weights(masks, positions).to(device)
            weights = by_place[device, positions]  # [G, N]
            with torch.autocast(device.type, enabled=False):
                added = weights.to(wide_dtype(device)) @ features(record, weights[0])
            known = self._sums.get(key)
            self._sums[key] = added if known is None else known.to(added) + added  # [G, 4k + 2]

    # Results ----------------------------------------------------------------------------------------------

    def collect(self, reduce: Reduce | None = None) -> list[LayerRouting]:
        """Return the statistics since the last call and begin anew.

        With several processes all of them must call this at the same point.

        Args:
            reduce: sums a float64 tensor ``[n]`` on the CPU over all processes; None for a single one.

        Returns:
            One entry for each layer and adapter that saw a position, in the model's order.
        """
        totals = self._totals(reduce)
        self._sums.clear()
        interactions = {key: self._interaction(key) for key in totals}  # all of them: gathering may be collective
        return [
            LayerRouting(
                *key,
                k=self._experts[key],
                interaction=interaction_state(interactions[key], self._start[key]),
                groups={
                    name: group_routing(row, self._experts[key], self.dead_below)
                    for name, row in zip(self.groups, total, strict=True)
                    if row[-1] > 0
                },
            )
            for key, total in totals.items()
            if total[0, -1] > 0
        ]

    def state(self, reduce: Reduce | None = None) -> dict[str, Any]:
        """Return what must outlive the process, as plain numbers and lists: each M_0 and the sums so far.

        Args:
            reduce: as for `collect`; the sums are then those of all processes.
        """
        totals = self._totals(reduce)
        return {
            "groups": list(self.groups),
            "start": _nested({key: None if m is None else m.tolist() for key, m in self._start.items()}),
            "sums": _nested({key: total.tolist() for key, total in totals.items()}),
        }

    def load_state(self, state: Mapping[str, Any], sums: bool = True) -> None:
        """Go on from a `state`.

        Args:
            state: of a telemetry of the same layers, adapters and groups.
            sums: whether to take over the sums too; with several processes, in one of them alone.

        Raises:
            ValueError: the state is of other layers, adapters or groups.
        """
        start, kept = _flat(state["start"]), _flat(state["sums"])
        ours = [list(self._experts)] * 2 + [list(self.groups)]
        if [list(start), list(kept), list(state["groups"])] != ours:
            raise ValueError("the routing state is of other layers, adapters or groups than this model's")
        self._start = {key: None if m is None else torch.tensor(m, dtype=torch.float64) for key, m in start.items()}
        rows = {key: torch.tensor(total, dtype=torch.float64) for key, total in kept.items()}
        self._sums = rows if sums else {}

    def _totals(self, reduce: Reduce | None) -> dict[Key, Tensor]:
        """Return the sums of every layer and adapter, ``[G, 4k + 2]``, by one copy from the device."""
        width = {key: 4 * k + 2 for key, k in self._experts.items()}
        device = next((sums.device for sums in self._sums.values()), torch.device("cpu"))
        empty = {
            key: torch.zeros(len(self.groups), n, dtype=wide_dtype(device), device=device) for key, n in width.items()
        }
        flat = torch.cat([self._sums.get(key, zeros).to(device).flatten() for key, zeros in empty.items()])
        flat = flat.to("cpu", torch.float64)  # [n]
        flat = flat if reduce is None else reduce(flat)
        parts = flat.split([len(self.groups) * n for n in width.values()])
        return {key: part.view(len(self.groups), -1) for key, part in zip(width, parts, strict=True)}

    def _interaction(self, key: Key) -> Tensor | None:
        """Return a copy of M, ``[k, k]`` in float64 on the CPU, or None if it is fixed at the identity."""
        name, adapter = key
        module = self._layers[name].weight_module("interaction", adapter)
        if module is None:
            return None
        whole = _whole(module.get_parameter("weight"))
        if whole.dim() != 2:
            raise ValueError(
                f"the interaction matrix of {name} is split over processes in a way that cannot be gathered (FSDP "
                "version 1): use FSDP version 2, DeepSpeed or DDP, or no routing telemetry"
            )
        return whole.to("cpu", torch.float64, copy=True)


def _weights(masks: Tensor, positions: torch.Size) -> Tensor:
    """Return the groups' members among a layer's positions, bool, ``[G, N]``."""
    if positions == masks.shape[1:] or (len(positions) == 1 and positions[0] == masks[0].numel()):
        return masks.flatten(1)
    everywhere = masks.new_zeros(len(masks), positions.numel())
    everywhere[0] = True
    return everywhere


def _whole(weight: Tensor) -> Tensor:
    """Return a weight that may be split over processes in one piece."""
    if hasattr(weight, "ds_id"):  # DeepSpeed's ZeRO-3
        from deepspeed import zero  # pyright: ignore[reportMissingImports]  an extra

        with zero.GatheredParameters([weight]):
            return weight.detach().clone()
    full_tensor: Callable[[], Tensor] | None = getattr(weight, "full_tensor", None)  # a DTensor, as FSDP2 makes them
    return weight.detach() if full_tensor is None else full_tensor().detach()


def _nested(values: Mapping[Key, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for (layer, adapter), value in values.items():
        found.setdefault(layer, {})[adapter] = value
    return found


def _flat(values: Mapping[str, Mapping[str, Any]]) -> dict[Key, Any]:
    return {(layer, adapter): value for layer, adapters in values.items() for adapter, value in adapters.items()}
