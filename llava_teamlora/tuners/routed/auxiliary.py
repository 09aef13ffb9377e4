"""Recording of what routers say, and the auxiliary losses added to a model's own loss.

In: a model with routed layers. Out: `record_routing` collects a RoutingRecord per layer and pass; `install_losses`
puts two hooks on the model's root that add the losses to its output in training, however the model is called.

The hooks only hold references to the logits during the pass and compute after it, outside any checkpointed region:
a recomputation in the backward pass then neither counts twice nor finds other tensors saved than in the first pass.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llava_teamlora.tuners.low_rank.layer import is_frozen
from llava_teamlora.tuners.routed.layer import RoutedLinear, RoutingRecord, routed_layers
from llava_teamlora.tuners.routed.losses import balance_loss, router_z_loss

_SINK = "_auxiliary_sink"
_HANDLES = "_auxiliary_handles"


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[RoutingRecord]]:
    """Collect what every routed layer's router says while the context is open.

    Yields:
        A list that grows by one record for each layer, active adapter and pass; a checkpointed layer that is
        recomputed inside the context records again.
    """
    sink: list[RoutingRecord] = []
    _listen(routed_layers(model), sink)
    try:
        yield sink
    finally:
        _unlisten(model, sink)


def auxiliary_loss(records: Sequence[RoutingRecord], attention_mask: Tensor | None = None) -> Tensor | None:
    """Return the weighted losses of the records, averaged over each adapter's layers.

    Args:
        records: from `record_routing`.
        attention_mask: ``[B, T]``, 0 where a position is padding. Layers that see other positions than these
            (those of a vision tower, say) count all of theirs.

    Returns:
        A scalar, or None if no adapter asks for a loss.

    Raises:
        RuntimeError: if the logits carry no gradient although the router is trained.
    """
    records = [record for record in records if wants_losses(record.layer, record.adapter)]
    if not records:
        return None
    total: Tensor | None = None
    for record in records:
        if not record.logits.requires_grad:
            raise RuntimeError(
                "the router's logits carry no gradient: balance_loss_coef and router_z_loss_coef need gradient "
                'checkpointing with gradient_checkpointing_kwargs={"use_reentrant": False}, or none; the reentrant '
                "kind runs the first pass without gradients"
            )
        config = record.layer.adapter_configs[record.adapter]
        valid = valid_positions(record.logits, attention_mask)
        loss = record.logits.new_zeros(())
        if config.balance_loss_coef > 0:
            loss = loss + config.balance_loss_coef * balance_loss(record.logits, valid)
        if config.router_z_loss_coef > 0:
            loss = loss + config.router_z_loss_coef * router_z_loss(record.logits, valid)
        loss = loss / sum(other.adapter == record.adapter for other in records)
        total = loss if total is None else total + loss.to(total.device)
    return total


def wants_losses(layer: RoutedLinear, adapter: str) -> bool:
    """Whether this adapter's router is trained with an auxiliary loss."""
    config = layer.adapter_configs.get(adapter)
    if config is None or layer.disable_adapters or not config.uses_auxiliary_losses:
        return False
    router = layer.weight_module("router", adapter)
    return router is not None and not is_frozen(router)


def install_losses(model: nn.Module) -> None:
    """Add the auxiliary losses to the model's loss from now on; a second call does nothing.

    The losses are added only in training mode with gradients on, so an evaluation loss stays comparable.
    """
    if not hasattr(model, _HANDLES):
        handles = (
            model.register_forward_pre_hook(_start_pass),
            model.register_forward_hook(_finish_pass, with_kwargs=True),
        )
        setattr(model, _HANDLES, handles)


def remove_losses(model: nn.Module) -> None:
    """Undo `install_losses`."""
    for handle in getattr(model, _HANDLES, ()):
        handle.remove()
    if hasattr(model, _HANDLES):
        delattr(model, _HANDLES)


def _start_pass(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Open a sink on the layers that want a loss. A sink left by a pass that raised is closed first."""
    _unlisten(model, getattr(model, _SINK, None))
    sink: list[RoutingRecord] | None = None
    if model.training and torch.is_grad_enabled():
        layers = [m for m in routed_layers(model) if any(wants_losses(m, name) for name in m.active_adapters)]
        if layers:
            sink = []
            _listen(layers, sink)
    setattr(model, _SINK, sink)


def _finish_pass(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Add the losses of this pass to the model's own."""
    sink: list[RoutingRecord] | None = getattr(model, _SINK, None)
    if sink is None:
        return output
    _unlisten(model, sink)
    setattr(model, _SINK, None)
    arguments = _arguments(model, args, kwargs)
    loss = auxiliary_loss(sink, arguments.get("attention_mask"))
    if loss is None:
        return output
    return _add_to_output(output, loss * _batch_weight(model, arguments), arguments)


def _batch_weight(model: nn.Module, arguments: dict[str, Any]) -> Tensor | float:
    """Return this micro-batch's share of the whole batch.

    transformers' Trainer either divides the loss by the number of accumulation steps (then the share is 1), or
    passes `num_items_in_batch`, the labelled tokens of the whole batch, over all accumulation steps and devices, and
    divides no more: then the share is this micro-batch's labelled tokens over that number, and all shares sum to 1.
    """
    total = arguments.get("num_items_in_batch")
    labels = arguments.get("labels")
    if total is None or labels is None:
        return 1.0
    if arguments.get("shift_labels") is not None:
        labels = arguments["shift_labels"]
    elif _shifts_labels(model):
        labels = labels[..., 1:]
    count = (labels != -100).sum()
    return count / torch.as_tensor(total, device=count.device).reshape(-1)[0].clamp(min=1)


def _shifts_labels(model: nn.Module) -> bool:
    """Whether the loss never predicts the first position; the Trainer counts labels by the same rule."""
    config = getattr(model, "config", None)
    return "ForCausalLM" in str(getattr(model, "loss_type", "")) and not getattr(config, "is_encoder_decoder", False)


def _add_to_output(output: Any, loss: Tensor, arguments: dict[str, Any]) -> Any:
    """Add `loss` to the output's own: a ModelOutput's or dict's entry, or a tuple's first element."""
    if isinstance(output, dict) and output.get("loss") is not None:
        output["loss"] = output["loss"] + loss.to(output["loss"].device)
        return output
    if isinstance(output, tuple) and output and arguments.get("labels") is not None:
        return (output[0] + loss.to(output[0].device), *output[1:])
    raise ValueError(
        "balance_loss_coef or router_z_loss_coef is set, but the model returned no loss to add them to: pass "
        "labels (label smoothing and custom loss functions take them away from the model), or set both to 0 and "
        "add auxiliary losses of your own with record_routing()"
    )


def _arguments(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the call's arguments by name, also those passed by position."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def valid_positions(logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Shape the mask as the logits' positions; None if the layer sees other positions than the mask's."""
    if mask is None or mask.dim() != 2:
        return None
    same = logits.shape[:-1] == mask.shape
    flattened = logits.dim() == 2 and logits.shape[0] == mask.numel()
    return (mask != 0).to(logits.device).reshape(logits.shape[:-1]) if same or flattened else None


def _listen(layers: Sequence[RoutedLinear], sink: list[RoutingRecord]) -> None:
    for layer in layers:
        layer.routing_sinks = (*layer.routing_sinks, sink)


def _unlisten(model: nn.Module, sink: list[RoutingRecord] | None) -> None:
    if sink is not None:
        for layer in routed_layers(model):
            layer.routing_sinks = tuple(other for other in layer.routing_sinks if other is not sink)
