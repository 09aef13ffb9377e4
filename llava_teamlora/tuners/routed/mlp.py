"""The gated MLPs that one autograd function can compute: which they are, and how they come to call it.

In: a model whose linears are adapted. Out: the same model; each MLP of a known class has become one of a class made
from it, whose forward runs fused_mlp.py wherever all three linears allow it and the class's own forward everywhere
else. Names, parameters and hooks stay, and the MLP's linears remain where they were.
"""

from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from llava_teamlora.tuners.routed.choice import can_fuse, fused_layer, is_hooked, tell_once
from llava_teamlora.tuners.routed.fused_mlp import Adapted, fused_mlp
from llava_teamlora.tuners.routed.layer import RoutedLinear
from llava_teamlora.tuners.routed.recompute import is_recomputing

_MODELS = "transformers.models"
KNOWN = {
    f"{_MODELS}.llama.modeling_llama.LlamaMLP": f"{_MODELS}.llama.modeling_llama.LlamaDecoderLayer",
    f"{_MODELS}.mistral.modeling_mistral.MistralMLP": f"{_MODELS}.mistral.modeling_mistral.MistralDecoderLayer",
    f"{_MODELS}.qwen2.modeling_qwen2.Qwen2MLP": f"{_MODELS}.qwen2.modeling_qwen2.Qwen2DecoderLayer",
    f"{_MODELS}.qwen3.modeling_qwen3.Qwen3MLP": f"{_MODELS}.qwen3.modeling_qwen3.Qwen3DecoderLayer",
}
"""MLPs whose forward is ``down_proj(act_fn(gate_proj(x)) * up_proj(x))``, and the layers that end with adding it."""

_SILU = (nn.SiLU, type(ACT2FN["silu"]))


class Linears(NamedTuple):
    """What `fused_mlp` needs of the three linears; their adapters' names; the dtype that their input comes in."""

    gate: Adapted
    up: Adapted
    down: Adapted
    adapters: tuple[str, str, str]
    dtype: torch.dtype


class RoutedMlp(nn.Module):
    """What is put before an MLP's own class; only `install` makes instances, of what is one already."""

    plain: ClassVar[type[nn.Module]]
    gate_proj: RoutedLinear
    up_proj: RoutedLinear
    down_proj: RoutedLinear
    act_fn: nn.Module
    ends_layer: bool

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D_in]`` to ``[..., D_out]``."""
        linears = fused_linears(self, x)
        if linears is None:
            return super().forward(x)
        gate, up, down, adapters, dtype = linears
        skip_output = self.ends_layer and is_recomputing() and not is_hooked(self)
        y, logits = fused_mlp(x.to(dtype), gate, up, down, skip_output=skip_output)
        for linear, adapter, said in zip((self.gate_proj, self.up_proj, self.down_proj), adapters, logits, strict=True):
            linear.tell(adapter, said)
        return y

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Its class, made at run time, is known to no module that a copy could be read from.
        return _remake, (self.plain,), self.__dict__


def install(model: nn.Module) -> None:
    """Let every MLP of a known class whose three linears are adapted compute as one; a second call adds what is new."""
    for parent in model.modules():
        for name, mlp in parent.named_children():
            layer = KNOWN.get(_runs(mlp))
            if layer is None or isinstance(mlp, RoutedMlp) or "forward" in mlp.__dict__:
                continue
            if _is_adapted(mlp) and type(mlp.act_fn) in _SILU:
                mlp.__class__ = _routed_class(type(mlp))
                mlp.ends_layer = name == "mlp" and _runs(parent) == layer  # pyright: ignore[reportArgumentType]


def uninstall(model: nn.Module) -> None:
    """Undo `install`."""
    for mlp in model.modules():
        if isinstance(mlp, RoutedMlp):
            mlp.__class__ = mlp.plain  # pyright: ignore[reportAttributeAccessIssue]
            del mlp.__dict__["ends_layer"]


def fused_linears(mlp: RoutedMlp, x: Tensor) -> Linears | None:
    """Return what computes the MLP as one for this input, or None where its own forward must."""
    linears = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if not _is_adapted(mlp) or not can_fuse(x):
        return None
    for linear in linears:
        if linear.packed is not None and not linear.packed.leave(linear):
            return None
    for module in (*linears, mlp.act_fn):
        if is_hooked(module):
            tell_once(f"a {type(module).__name__} has hooks: each linear of its MLP by itself")
            return None
    found, adapters, dtype = [], [], x.dtype
    for linear in linears:
        whole = fused_layer(linear, x.device, dtype)
        if whole is None or linear.adapter_configs[whole.update.adapter].impl != "auto":
            return None
        adapter, weights, sizes = whole.update
        found.append(Adapted(whole.weight, whole.bias, *weights, sizes))
        adapters.append(adapter)
        dtype = whole.dtype  # of what gate and up return, and of what they read
    if not found[0].weight.dtype == found[1].weight.dtype == found[2].weight.dtype:
        tell_once("the linears of an MLP differ in dtype: each by itself")
        return None
    gate, up, down = found
    return Linears(gate, up, down, (adapters[0], adapters[1], adapters[2]), dtype)


def _runs(module: nn.Module) -> str:
    """Return the qualified name of the class whose forward a module runs, be it that of a class it was made from."""
    forward = type(module).forward
    return f"{forward.__module__}.{forward.__qualname__}".removesuffix(".forward")


def _is_adapted(mlp: Any) -> bool:
    return all(isinstance(linear, RoutedLinear) for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))


@cache
def _routed_class(plain: type[nn.Module]) -> type[RoutedMlp]:
    """Make the class that an MLP of class `plain` becomes."""
    return type(f"Routed{plain.__name__}", (RoutedMlp, plain), {"plain": plain, "__doc__": plain.__doc__})


def _remake(plain: type[nn.Module]) -> nn.Module:
    """Make an MLP that is still to be filled, for copy and pickle."""
    made = _routed_class(plain)
    return made.__new__(made)
