"""The layer every method of ours wraps around a linear: base output plus a low-rank update.

In: a linear layer (torch's, GPT-2's Conv1D, or a quantised one) and a configuration. Out: a module that adds the
update of each active adapter. A method says which weights it has and what they compute; peft's contract (several
adapters, scaling, merging, mixed dtypes, quantised bases) is met here.
"""

import math
import re
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llava_teamlora.tuners.low_rank.config import LowRankConfig
from llava_teamlora.tuners.low_rank.lost import DownProjection, refuse_lost

MERGE_REFUSAL = (
    "this adapter cannot be merged into the base weights: how much it adds depends on the input, token by token. Serve "
    "it beside the base model (save_pretrained, then PeftModel.from_pretrained), or call unload() for the base model "
    "without it"
)


class LowRankLinear(nn.Module, BaseTunerLayer):
    """A linear with low-rank adapters.

    A subclass sets `prefix` and `weight_names` (each becomes a ModuleDict ``prefix + name``, adapter name to module),
    writes `update`, and `build_weights` where there is more than A and B; if the update does not depend on the input,
    `delta_weight` too, and the adapter can be merged. Weights sit directly under the adapter's name: peft finds no
    deeper ones.

    Args:
        base_layer: the layer to adapt.
        adapter_name: name of its first adapter.
        config: that adapter's configuration.
        quantization: what peft needs to know of a quantised base, as keyword arguments.

    Raises:
        TypeError: if the layer has no known input and output width.
    """

    prefix: ClassVar[str] = ""
    weight_names: ClassVar[tuple[str, ...]] = ("A", "B")
    other_param_names = ("adapter_dropout", "adapter_configs", "scaling")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.adapter_layer_names = tuple(cls.prefix + name for name in cls.weight_names)

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: LowRankConfig,
        *,
        quantization: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        linear = self.get_base_layer()
        self.quantization_backend = resolve_quantization_backend(linear, **(quantization or {}))
        self.in_features, self.out_features = linear_shape(linear)
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
        self.adapter_dropout = nn.ModuleDict()
        self.adapter_configs: dict[str, Any] = {}
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters = []
        self.cast_input_dtype_enabled = True
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    # What a method writes ---------------------------------------------------------------------------------

    def build_weights(self, config: Any) -> dict[str, nn.Module]:
        """Return a new adapter's initialised modules by weight name; a name may be absent.

        Here: A ``[r, D_in]``, and B ``[D_out, r]``, zero, so that the output is the base model's.
        """
        a = DownProjection(self.in_features, config.r)
        b = nn.Linear(config.r, self.out_features, bias=False)
        for linear in (a, b):
            init_projection(linear.weight)
        if config.init_weights:
            nn.init.zeros_(b.weight)
        return {"A": a, "B": b}

    def update(self, adapter: str, x: Tensor) -> Tensor:
        """Return what one adapter adds to the output for the input ``[..., D_in]``: ``[..., D_out]``."""
        raise NotImplementedError

    def delta_weight(self, adapter: str) -> Tensor:
        """Return what one adapter adds to the weight, ``[D_out, D_in]``, if that is the same for every input."""
        raise NotImplementedError(MERGE_REFUSAL)

    @classmethod
    def can_merge(cls) -> bool:
        """Whether the method's adapters can be merged: whether it has a `delta_weight`."""
        return cls.delta_weight is not LowRankLinear.delta_weight

    # Adapters ---------------------------------------------------------------------------------------------

    def weight_module(self, name: str, adapter: str) -> nn.Module | None:
        """Return an adapter's module called `name` in `weight_names`, or None if the adapter has none."""
        modules: nn.ModuleDict = getattr(self, self.prefix + name)
        return modules[adapter] if adapter in modules else None

    def linear(self, name: str, adapter: str) -> nn.Linear:
        """Return an adapter's linear called `name` in `weight_names`, which it must have."""
        module = self.weight_module(name, adapter)
        assert isinstance(module, nn.Linear)
        return module

    def update_layer(self, adapter_name: str, config: LowRankConfig) -> None:
        """Add an adapter, or replace the one of this name."""
        weights = self.build_weights(config)
        for name in self.weight_names:
            modules: nn.ModuleDict = getattr(self, self.prefix + name)
            if adapter_name in modules:
                del modules[adapter_name]
            if name in weights:
                modules[adapter_name] = weights[name]
        dropout = nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        self.adapter_dropout[adapter_name] = dropout
        self.adapter_configs[adapter_name] = config
        self.scaling[adapter_name] = config.alpha / config.r
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base layer's output plus the update of each active adapter, in the base output's dtype.

        Args:
            x: ``[..., D_in]``.

        Returns:
            ``[..., D_out]``.
        """
        if self._disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)  # [..., D_out]
        if self._disable_adapters or self.merged:
            return result
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter in self.scaling:
                result = result + self.update(adapter, x)
        return result.to(dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Called by load_state_dict, before the weights below this layer are filled."""
        held = {prefix + name: parameter for name, parameter in self.named_parameters()}
        # An empty weight for an empty place: a process's own part, saved and loaded by ZeRO-3 itself.
        coming = {
            key: value
            for key, value in state_dict.items()
            if key.startswith(prefix + self.prefix) and not (key in held and held[key].numel() == 0)
        }
        refuse_lost(coming, re.escape(f"{self.prefix}A."))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # Scale ------------------------------------------------------------------------------------------------

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scale to `scale` times alpha / r."""
        if adapter in self.scaling:
            config = self.adapter_configs[adapter]
            self.scaling[adapter] = scale * config.alpha / config.r

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of each active adapter by `scale`."""
        for adapter in self.active_adapters:
            if adapter in self.scaling:
                self.scaling[adapter] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scale of each active adapter by `scale`; None goes back to alpha / r."""
        for adapter in self.active_adapters:
            if adapter in self.scaling:
                if scale is None:
                    self.set_scale(adapter, 1.0)
                else:
                    self.scaling[adapter] /= scale

    # Merging ----------------------------------------------------------------------------------------------

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight, in float32 at least.

        Args:
            safe_merge: refuse an adapter that would leave a weight that is not finite.
            adapter_names: which; None merges the active ones.

        Raises:
            NotImplementedError: if what the adapter adds depends on the input.
            ValueError: with `safe_merge`, naming the adapter; the base weight is as it was.
        """
        if not self.can_merge():
            raise NotImplementedError(MERGE_REFUSAL)
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.scaling:
                self._add_to_base(adapter, 1.0, safe_merge)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take every merged adapter out of the base weight again."""
        while self.merged_adapters:
            self._add_to_base(self.merged_adapters.pop(), -1.0, False)

    @torch.no_grad()
    def _add_to_base(self, adapter: str, sign: float, safe: bool) -> None:
        base = self.get_base_weight()
        delta = self.delta_weight(adapter).to(base.device)  # [D_out, D_in]
        if isinstance(self.get_base_layer(), Conv1D):
            delta = delta.T
        merged = base.to(delta.dtype) + sign * delta
        if safe and not torch.isfinite(merged).all():
            raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken")
        self.set_base_weight(merged.to(base.dtype))

    def extra_repr(self) -> str:
        """Return what peft says of a quantised base when the layer is printed."""
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return self.prefix.removesuffix("_") + "." + super().__repr__()


def init_projection(weight: Tensor) -> None:
    """Fill a weight by Kaiming-uniform with a = sqrt(5), as peft's LoRA does for A: U(+-1/sqrt(D_in))."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def linear_shape(layer: nn.Module) -> tuple[int, int]:
    """Return (D_in, D_out) of a linear, GPT-2's Conv1D or a quantised linear, without touching its weight.

    Raises:
        TypeError: if the layer tells neither.
    """
    for names in (("in_features", "out_features"), ("nx", "nf")):
        d_in, d_out = (getattr(layer, name, None) for name in names)
        if isinstance(d_in, int) and isinstance(d_out, int):
            return d_in, d_out
    raise TypeError(f"{type(layer).__name__} has no in_features and out_features: only linear layers can be adapted")


def is_frozen(module: nn.Module) -> bool:
    """Whether no parameter of the module is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())
