"""Which form computes a routed linear, asked anew in each pass.

In: a layer, and device and dtype of its input. Out: what the fused form reads off the modules, or None where their own
forward must run: a hook on them would be passed by, a weight is elsewhere or in pieces, the base trains along. What
runs then is the next form that can: the whole layer fused, only its update, the reference's plain operations. Each
reason is logged once in a process.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from llava_teamlora.tuners.low_rank.lost import DownProjection
from llava_teamlora.tuners.routed.fused_linear import Sizes, Weights
from llava_teamlora.tuners.routed.router import WideLinear

if TYPE_CHECKING:
    from llava_teamlora.tuners.routed.layer import RoutedLinear

_PLAIN = (Tensor, nn.Parameter, FakeTensor)
_LINEARS = (DownProjection, WideLinear, nn.Linear)
_DROPOUTS = (nn.Identity, nn.Dropout)
_logger = logging.getLogger("llava_teamlora.tuners")
_told: set[str] = set()


class _Modules(NamedTuple):
    """An adapter's modules, its weights' in the order of Weights."""

    weights: tuple[nn.Module | None, ...]
    router_hidden: nn.Module | None
    dropout: nn.Module


class FusedUpdate(NamedTuple):
    """What `fused_linear` needs of an adapter, and its name."""

    adapter: str
    weights: Weights
    sizes: Sizes


class FusedLayer(NamedTuple):
    """What it needs of a whole layer: the base's weight and bias, the dtype its input comes in, the one adapter."""

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    update: FusedUpdate


def fused_layer(layer: "RoutedLinear", device: torch.device, dtype: torch.dtype) -> FusedLayer | None:
    """Return what computes a whole layer, or None where its base must be called as a module.

    Args:
        layer: the layer.
        device: where its input is.
        dtype: its input's, before autocast.
    """
    if layer.disable_adapters:
        return None
    adapters = [name for name in layer.active_adapters if name in layer.scaling]
    if not adapters or layer.adapter_configs[adapters[0]].impl == "reference":
        return None
    cast = _autocast_dtype(device)
    reason = _why_call_base(layer, adapters, dtype, cast)
    if reason is not None:
        tell_once(f"{reason}: the base layer is called, at most the update is fused")
        return None
    update = fused_update(layer, adapters[0], device, dtype)
    if update is None:
        return None
    base = layer.base_layer
    weight: Any = base.weight
    return FusedLayer(weight, base.bias, cast or weight.dtype, update)  # pyright: ignore[reportArgumentType]


def fused_update(layer: "RoutedLinear", adapter: str, device: torch.device, dtype: torch.dtype) -> FusedUpdate | None:
    """Return what computes one adapter's update, or None where the reference's operations must; see `fused_layer`."""
    config = layer.adapter_configs[adapter]
    if config.impl == "reference":
        return None
    modules = _modules(layer, adapter)
    cast = _autocast_dtype(device)
    reason = _why_reference(layer, modules, dtype, cast)
    if reason is not None:
        tell_once(f"{reason}: plain operations compute the update")
        return None
    a, b, router, interaction = [None if module is None else module.weight for module in modules.weights]
    weights: Any = Weights(a, b, router, interaction)  # pyright: ignore[reportArgumentType]
    dropout, k = modules.dropout, config.num_experts
    sizes = Sizes(
        config.r,
        layer.scaling[adapter],
        dropout.p if type(dropout) is nn.Dropout and dropout.training else 0.0,
        cast or weights.a.dtype,
        k=k,
        rank=config.r if layer.shared_down_projection else config.r * k,
    )
    return FusedUpdate(adapter, weights, sizes)


def why_not_fused(layer: "RoutedLinear") -> str | None:
    """Say why a layer cannot be fused whole for inputs in the dtype of its base weight; None if it can."""
    adapters = [name for name in layer.active_adapters if name in layer.scaling]
    if not adapters:
        return "no adapter is active"
    if layer.adapter_configs[adapters[0]].impl == "reference":
        return 'impl="reference" was asked for'
    weight = getattr(layer.base_layer, "weight", None)
    dtype = weight.dtype if isinstance(weight, Tensor) else torch.float32
    modules = _modules(layer, adapters[0])
    return _why_call_base(layer, adapters, dtype, None) or _why_reference(layer, modules, dtype, None)


def can_fuse(x: Tensor) -> bool:
    """Whether custom autograd can take this input: an ordinary tensor, no forward mode, no transform of torch.func."""
    if type(x) not in _PLAIN:
        tell_once(f"the input is a {type(x).__name__}: plain operations compute the update")
        return False
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        tell_once("a transform of torch.func is active: plain operations compute the update")
        return False
    if is_forward_mode():
        tell_once("tangents are asked for (torch.autograd.forward_ad): plain operations compute the update")
        return False
    return True


def is_forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open; never in what torch.compile traces."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward; accelerate puts another forward on the instance."""
    hooks = module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks
    return bool(hooks) or "forward" in module.__dict__


def tell_once(reason: str) -> None:
    """Log a reason the first time it is given."""
    if reason not in _told and not torch.compiler.is_compiling():
        _told.add(reason)
        _logger.info(reason)


def _why_call_base(
    layer: "RoutedLinear", adapters: Sequence[str], dtype: torch.dtype, cast: torch.dtype | None
) -> str | None:
    """Say why the base layer's weight cannot be read in its stead."""
    base = layer.base_layer
    if layer.merged_adapters:
        return "an adapter is merged"
    if len(adapters) > 1:
        return "several adapters are active"
    if type(base) is not nn.Linear or layer.quantization_backend is not None:
        return f"the base layer is a {type(base).__name__}"
    if is_hooked(base):
        return "the base layer has hooks"
    weight, bias = base.weight, base.bias
    if not _is_whole(weight) or not (bias is None or _is_whole(bias)):
        return f"the base weight is split or a {type(weight).__name__}"
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return "the base layer is trained"
    own = weight.dtype
    if dtype != own and (cast is None or torch.float64 in (dtype, own)):
        return f"the input is {dtype}, the base weight {own}"
    return None


def _why_reference(
    layer: "RoutedLinear", modules: _Modules, dtype: torch.dtype, cast: torch.dtype | None
) -> str | None:
    """Say why the adapter's modules must be called."""
    if layer.expert_gains is not None:
        return "experts are weighted by hand"
    if modules.router_hidden is not None:
        return "the router is an MLP"
    if not layer.cast_input_dtype_enabled:
        return "the input may not be cast to the adapter's dtype"
    if type(modules.dropout) not in _DROPOUTS or is_hooked(modules.dropout):
        return f"the adapter's dropout is a {type(modules.dropout).__name__}, or has hooks"
    for module in modules.weights:
        if module is None:
            continue
        if type(module) not in _LINEARS or is_hooked(module):
            return f"a weight of the adapter is in a {type(module).__name__}, or has hooks"
        weight: Any = module.weight
        if not _is_whole(weight):
            return f"a weight of the adapter is split or a {type(weight).__name__}"
        if cast is not None and torch.float64 in (dtype, weight.dtype):
            return "autocast leaves float64 as it is"
    return None


def _modules(layer: "RoutedLinear", adapter: str) -> _Modules:
    held = layer._modules  # read past the modules' own look-up, which takes a microsecond for each name
    a, b, router, hidden, interaction = [held[name]._modules.get(adapter) for name in layer.adapter_layer_names]  # pyright: ignore
    return _Modules((a, b, router, interaction), hidden, held["adapter_dropout"]._modules[adapter])  # pyright: ignore


def _is_whole(weight: object) -> bool:
    """Whether a weight is an ordinary tensor, all of it here: no DTensor, no quantised one, not split by ZeRO-3."""
    return type(weight) in _PLAIN and not hasattr(weight, "ds_id")


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast computes in on this device; None where it is off, as on the meta device."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else None
