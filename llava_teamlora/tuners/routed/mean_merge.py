"""A routed adapter folded into the base's weights at its mean participation: approximate, and measured.

In: a model with routed adapters and a calibration set. Out: the plain model and what the folding costs. A routed
update depends on the input; with every omega_i at its mean over the calibration set's valid positions it is a matrix,

    delta W = s * sum_i mean(omega_i) A_i B_i,

which is added to the layer's weight in float32. The means are running sums of k numbers a layer. While the costs are
measured, the adapted layers' weights exist twice (before and after); of the logits one batch's are held at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llava_teamlora.tuners.routed.auxiliary import record_routing, valid_positions
from llava_teamlora.tuners.routed.layer import RoutedLinear
from llava_teamlora.tuners.routed.merge_cost import MergeCost, Tally
from llava_teamlora.tuners.routed.statistics import wide_dtype

Batches = Iterable[Mapping[str, Any]]
Means = dict[str, dict[str, Tensor]]
"""Path of a layer -> name of an adapter -> mean omega ``[k]``, in the device's widest float."""


@dataclass(frozen=True)
class MeanMerge:
    """A plain model that stands for a routed one.

    Args:
        model: without adapters.
        participation: mean omega of each layer and adapter, ``[k]``.
        calibration: what it costs on the data that the means were taken on.
        held_out: what it costs on other data; None if there was none.
    """

    model: nn.Module
    participation: Means
    calibration: MergeCost
    held_out: MergeCost | None


def approximate_merge(model: PeftModel, batches: Batches, held_out: Batches = ()) -> MeanMerge:
    """Fold the mean participation over a calibration set into the base's weights.

    Args:
        model: a causal language model (with or without pictures) with routed adapters, the active ones are folded.
            It is used up: its base becomes the plain model.
        batches: the calibration set: keyword arguments of the model, on its device. Positions whose `attention_mask`
            is 0 do not count. With `labels` the costs are those of predicting the labelled tokens, and the loss is
            among them; without, of predicting every next token. A list, or anything that can be gone through twice.
        held_out: the same, for costs on data that the means were not taken on.

    Returns:
        The plain model and its costs.

    Raises:
        ValueError: if there is nothing to fold, a layer cannot be folded into, or the data cannot be used.
    """
    layers = _foldable(model)
    for data in (batches, held_out):
        if iter(data) is data:
            raise ValueError("the calibration set is read more than once: pass a list or a DataLoader, no generator")
    model.eval()
    means = mean_participation(model, batches)
    folded = {path: _fold(layer, means[path]) for path, layer in layers.items()}
    costs = [_cost(model, layers, folded, data) for data in (batches, held_out)]
    if costs[0] is None:
        raise ValueError("the calibration set has no position to compare: no next token, or no labelled one")
    for path, layer in layers.items():
        _linear(layer).weight.data = folded[path]
    return MeanMerge(model.unload(), means, costs[0], costs[1])


@torch.no_grad()
def mean_participation(model: nn.Module, batches: Batches) -> Means:
    """Return the mean omega of each routed layer and active adapter over the valid positions.

    Args:
        model: with routed adapters.
        batches: keyword arguments of the model; positions whose `attention_mask` is 0 do not count.

    Raises:
        ValueError: if a layer saw no valid position.
    """
    paths = {module: path for path, module in model.named_modules() if isinstance(module, RoutedLinear)}
    sums: dict[tuple[str, str], Tensor] = {}
    counts: dict[tuple[str, str], int] = {}
    for batch in batches:
        with record_routing(model) as records:
            model(**_inputs(batch))
        for record in records:
            key = paths[record.layer], record.adapter
            omega = record.participation.flatten(0, -2)  # [N, k]
            omega = omega.to(wide_dtype(omega.device))
            valid = valid_positions(record.logits, batch.get("attention_mask"))
            omega = omega if valid is None else omega[valid.flatten()]
            sums[key] = sums.get(key, 0) + omega.sum(dim=0)
            counts[key] = counts.get(key, 0) + omega.shape[0]
    means: Means = {}
    for layer, path in paths.items():
        for adapter in _active(layer):
            if not counts.get((path, adapter)):
                raise ValueError(f"{path}: the calibration set never came by this layer; give data that uses it")
            means.setdefault(path, {})[adapter] = sums[path, adapter] / counts[path, adapter]
    return means


def mean_delta_weight(layer: RoutedLinear, adapter: str, participation: Tensor) -> Tensor:
    """Return s * sum_i omega_i A_i B_i for fixed omega as a weight, ``[D_out, D_in]``, float32 or wider.

    Args:
        layer: the layer.
        adapter: name of its adapter.
        participation: omega, ``[k]``.
    """
    a, b = (layer.linear(name, adapter).weight.detach() for name in ("A", "B"))
    dtype = torch.promote_types(a.dtype, torch.float32)
    r = layer.adapter_configs[adapter].r
    a = a.to(dtype).repeat(b.shape[1] // a.shape[0], 1)  # [k*r, D_in], a shared A once for each expert
    weights = participation.to(a.device, dtype).repeat_interleave(r)  # [k*r]
    return layer.scaling[adapter] * (b.to(dtype) * weights) @ a


def _fold(layer: RoutedLinear, means: Mapping[str, Tensor]) -> Tensor:
    """The layer's weight with the mean update of its active adapters, in the weight's own dtype."""
    linear = _linear(layer)
    total = linear.weight.detach()
    total = total.to(torch.promote_types(total.dtype, torch.float32))
    for adapter, participation in means.items():
        delta = mean_delta_weight(layer, adapter, participation).to(total.device)
        total = total + (delta.T if isinstance(linear, Conv1D) else delta)
    return total.to(linear.weight.dtype).contiguous()


def _foldable(model: PeftModel) -> dict[str, RoutedLinear]:
    """The routed layers with an active adapter, all of them on plain weights that are no one else's."""
    found = {path: m for path, m in model.named_modules() if isinstance(m, RoutedLinear) and _active(m)}
    if not found:
        raise ValueError("the model has no active routed adapter: merge_and_unload() merges the others exactly")
    if getattr(model.get_base_model().config, "is_encoder_decoder", False):
        raise ValueError("costs are measured on causal language models only; this model has an encoder and a decoder")
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for path, layer in found.items():
        linear = layer.get_base_layer()
        if not isinstance(linear, (nn.Linear, Conv1D)) or not linear.weight.is_floating_point():
            raise ValueError(f"{path}: its base is a quantised {type(linear).__name__}; load the base unquantised")
        shared = owners[id(linear.weight)]
        if len(shared) > 1:
            raise ValueError(f"{path}: its weight is tied ({', '.join(shared)}), so folding would change both")
    return found


def _cost(model: PeftModel, layers: Mapping[str, RoutedLinear], folded: dict[str, Tensor], data: Batches) -> Any:
    """Compare the routed model's logits with the folded one's, batch by batch; None if nothing can be compared."""
    tally = Tally()
    with torch.no_grad():
        for batch in data:
            before = tally.select(model(**_inputs(batch)).logits, batch)
            with _folded_in(layers, folded):
                after = tally.select(model(**_inputs(batch)).logits, batch)
            tally.add(before, after, batch)
    return tally.cost()


@contextmanager
def _folded_in(layers: Mapping[str, RoutedLinear], folded: dict[str, Tensor]) -> Iterator[None]:
    """Let the model compute with the folded weights and without the adapters; nothing is copied."""
    plain = {path: _linear(layer).weight.data for path, layer in layers.items()}
    try:
        for path, layer in layers.items():
            _linear(layer).weight.data = folded[path]
            layer._disable_adapters = True  # peft's own switch would leave modules_to_save out as well
        yield
    finally:
        for path, layer in layers.items():
            _linear(layer).weight.data = plain[path]
            layer._disable_adapters = False


def _linear(layer: RoutedLinear) -> Any:
    return layer.get_base_layer()


def _active(layer: RoutedLinear) -> list[str]:
    return [] if layer.disable_adapters else [name for name in layer.active_adapters if name in layer.scaling]


def _inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Without labels: the loss is computed from the logits, where both models are compared."""
    return {name: value for name, value in batch.items() if name != "labels"}
