"""The tuner every method of ours shares: which modules become adapted layers, and what is refused.

In: a model and a configuration. Out: the same model, its targeted linears replaced by the method's layer.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from llava_teamlora.tuners.low_rank.config import LowRankConfig, check_targets
from llava_teamlora.tuners.low_rank.found import check_found
from llava_teamlora.tuners.low_rank.layer import MERGE_REFUSAL, LowRankLinear
from llava_teamlora.tuners.low_rank.lost import REMEDY, LostWeights, is_writer, refuse_lost
from llava_teamlora.tuners.low_rank.targets import FFN_TARGETS


class LowRankModel(BaseTuner):
    """A model with low-rank adapters. A subclass sets `prefix` and `tuner_layer_cls`."""

    tuner_layer_cls: ClassVar[type[LowRankLinear]]
    target_module_mapping = FFN_TARGETS  # pyright: ignore[reportAssignmentType]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model as a module: peft 0.20 calls its `forward`, which passes the model's hooks by."""
        _refuse_mixed_batch(kwargs)
        return self.model(*args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Entered by peft around forward and generate; it drops `adapter_names` itself afterwards."""
        _refuse_mixed_batch(kwargs)
        yield

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Replace the targeted linears.

        Raises:
            ValueError: if the configuration names what the model does not have. With a `state_dict` its keys say
                which linears to adapt, and the configuration's targets need not fit.
        """
        config = self.peft_config[adapter_name]
        assert isinstance(config, LowRankConfig)
        defaults = self.target_module_mapping.get(str(self.get_model_config(model).get("model_type")))
        check_found(config, model, defaults, targets=state_dict is None)
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        assert isinstance(peft_config, LowRankConfig)
        if peft_config.target_modules is None:
            model_type = model_config.get("model_type")
            targets = self.target_module_mapping.get(str(model_type))
            if targets is None:
                raise ValueError(
                    "Please specify `target_modules`: the feed-forward linears of model type "
                    f"{model_type!r} are not known; name the linears to adapt, or 'all-linear'"
                )
            peft_config.target_modules = targets if isinstance(targets, str) else set(targets)
            check_targets(peft_config)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **unused: Any,
    ) -> None:
        assert isinstance(peft_config, LowRankConfig)
        config = peft_config.at(current_key)
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, config)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        check_linear(base, current_key)
        quantization = get_quantization_kwargs(self.model)
        layer = self.tuner_layer_cls(target, adapter_name, config, quantization=quantization)
        if adapter_name not in self.active_adapters:
            # An adapter added beside an active one is not trained until it is activated.
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        if not self.tuner_layer_cls.can_merge():
            raise NotImplementedError(MERGE_REFUSAL)
        super()._check_merge_allowed()

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """Select the adapter's weights for a file; peft 0.21 and newer ask for it.

        Raises:
            LostWeights: if they are not whole. A process that does not write the file may lack them.
        """
        weights = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        if is_writer():
            cls._refuse_lost(weights, f"adapter {adapter_name!r} cannot be saved: ")
        return weights

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Rename what was read from a file to the model's names; peft 0.21 and newer ask for it.

        Raises:
            LostWeights: if none of it is the adapter's, or it is not whole.
        """
        renamed = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        own = {name: weight for name, weight in renamed.items() if cls.prefix in name}
        cls._refuse_lost(own, f"adapter {adapter_name!r} cannot be loaded: ")
        return renamed

    @classmethod
    def _refuse_lost(cls, weights: dict[str, Tensor], what: str) -> None:
        if not weights:
            raise LostWeights(f"{what}its weights ({cls.prefix}…) are not there: {REMEDY}")
        try:
            refuse_lost(weights, re.escape(f"{cls.prefix}A."))
        except LostWeights as error:
            raise LostWeights(f"{what}{error}") from error

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft's own also copies the weight over, which fails on unloading a module in modules_to_save that has none of
        # its own (a projector). Our layers keep the module they wrap, and find its device themselves.
        setattr(parent, child_name, new_module)


def _refuse_mixed_batch(kwargs: dict[str, Any]) -> None:
    if kwargs.get("adapter_names") is not None:
        raise NotImplementedError(
            f"adapter_names={kwargs['adapter_names']!r}: adapters of this method cannot be mixed within a "
            "batch; call the model once for each adapter, after set_adapter(name)"
        )


def check_linear(layer: nn.Module, name: str) -> None:
    """Raise TypeError unless the layer is a linear whose forward is what computes its output."""
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        raise TypeError(
            f"target module {name} is part of torch.nn.MultiheadAttention, which reads its weight and never calls "
            "it, so an adapter on it would have no effect: leave it out with exclude_modules"
        )
    if isinstance(layer, (nn.Linear, Conv1D)):
        return
    backend = resolve_quantization_backend_or_none(layer)
    if backend is None or getattr(backend, "layer_type", "linear") != "linear":
        raise TypeError(
            f"target module {name} is a {type(layer).__name__}, not a linear layer: name only torch.nn.Linear "
            "modules in target_modules (quantised ones and GPT-2's Conv1D too), or leave this one out with "
            "exclude_modules"
        )


def resolve_quantization_backend_or_none(layer: nn.Module) -> Any:
    """Return peft's backend for a quantised layer, or None; nothing is asked of it but its kind."""
    return resolve_quantization_backend(layer, get_apply_tensor_subclass=lambda: None)
