"""The layer every routed method wraps around a linear: base output plus a routed low-rank update.

In: a linear layer (torch's, GPT-2's Conv1D, or a quantised one) and a configuration. Out: a module that adds, for
each active adapter, scale * sum_i omega_i split(x A)_i B_i. A method says which weights it has and how phi becomes
omega; everything else is here.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn

from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.product import routed_low_rank
from llava_teamlora.tuners.routed.router import router_logits, shapley_values

MERGE_REFUSAL = (
    "a routed adapter cannot be merged into the base weights: how much each expert adds depends on the input, "
    "token by token. Serve the adapter beside the base model (save_pretrained, then PeftModel.from_pretrained), "
    "or call unload() for the base model without it"
)


@dataclass(frozen=True)
class RoutingRecord:
    """What the router of one layer said in one forward pass.

    Args:
        layer: the layer.
        adapter: name of the adapter.
        logits: router logits, ``[..., k]``.
        participation: omega, the weight each expert got, ``[..., k]``.
    """

    layer: "RoutedLinear"
    adapter: str
    logits: Tensor
    participation: Tensor


class RoutedLinear(nn.Module, BaseTunerLayer):
    """A linear with routed low-rank adapters.

    A subclass sets `prefix` and `weight_names` (each becomes a ModuleDict ``prefix + name``, adapter name to module)
    and writes `build_weights` and `participation`. Weights sit directly under the adapter's name: peft finds no
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
    weight_names: ClassVar[tuple[str, ...]] = ()
    other_param_names = ("adapter_dropout", "adapter_configs", "scaling")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.adapter_layer_names = tuple(cls.prefix + name for name in cls.weight_names)

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: RoutedConfig,
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
        self.adapter_configs: dict[str, RoutedConfig] = {}
        self.scaling: dict[str, float] = {}
        # Who listens to the router: lists that get a RoutingRecord each pass. Empty costs nothing.
        self.routing_sinks: tuple[list[RoutingRecord], ...] = ()
        self._disable_adapters = False
        self.merged_adapters = []
        self.cast_input_dtype_enabled = True
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def build_weights(self, config: RoutedConfig) -> dict[str, nn.Module]:
        """Return a new adapter's initialised modules by weight name; a name may be absent."""
        raise NotImplementedError

    def participation(self, adapter: str, shapley: Tensor) -> Tensor:
        """Turn phi ``[..., k]`` into omega ``[..., k]``."""
        raise NotImplementedError

    def weight_module(self, name: str, adapter: str) -> nn.Module | None:
        """Return an adapter's module called `name` in `weight_names`, or None if the adapter has none."""
        modules: nn.ModuleDict = getattr(self, self.prefix + name)
        return modules[adapter] if adapter in modules else None

    def update_layer(self, adapter_name: str, config: RoutedConfig) -> None:
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
        result = self.base_layer(x, *args, **kwargs)  # [..., D_out]
        if self._disable_adapters:
            return result
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter in self.scaling:
                result = result + self.update(adapter, x)
        return result.to(dtype)

    def update(self, adapter: str, x: Tensor) -> Tensor:
        """Return what one adapter adds to the output, ``[..., D_out]``."""
        a, b = self.weight_module("A", adapter), self.weight_module("B", adapter)
        router = self.weight_module("router", adapter)
        assert isinstance(a, nn.Linear) and b is not None and router is not None
        x = self._cast_input_dtype(x, a.weight.dtype)
        logits = router_logits(x, self.weight_module("router_hidden", adapter), router)  # [..., k]
        participation = self.participation(adapter, shapley_values(logits))  # [..., k]
        if self.routing_sinks:
            record = RoutingRecord(self, adapter, logits, participation)
            for sink in self.routing_sinks:
                sink.append(record)
        r, scale = self.adapter_configs[adapter].r, self.scaling[adapter]
        return routed_low_rank(self.adapter_dropout[adapter](x), a, b, participation, r, scale)

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

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> NoReturn:
        """Refuse: see the message."""
        raise NotImplementedError(MERGE_REFUSAL)

    def unmerge(self) -> NoReturn:
        """Refuse: nothing was merged."""
        raise NotImplementedError(MERGE_REFUSAL)

    def extra_repr(self) -> str:
        """Return what peft says of a quantised base when the layer is printed."""
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return self.prefix.removesuffix("_") + "." + super().__repr__()


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


def routed_layers(model: nn.Module) -> list[RoutedLinear]:
    """Return the routed layers of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, RoutedLinear)]


__all__ = ["MERGE_REFUSAL", "RoutedLinear", "RoutingRecord", "is_frozen", "linear_shape", "routed_layers"]
