"""The tuner every routed method shares: auxiliary losses.

In: a model and a configuration. Out: the same model, its targeted linears replaced by the method's layer.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from llava_teamlora.tuners.low_rank.model import LowRankModel
from llava_teamlora.tuners.routed.auxiliary import install_losses, remove_losses
from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.layer import RoutedLinear


class RoutedModel(LowRankModel):
    """A model with routed adapters. A subclass sets `prefix` and `tuner_layer_cls`."""

    tuner_layer_cls: ClassVar[type[RoutedLinear]]

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Replace the targeted linears, then see to the auxiliary losses if the adapter has any.

        Raises:
            ValueError: if the configuration names what the model does not have.
        """
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        config = self.peft_config[adapter_name]
        assert isinstance(config, RoutedConfig)
        if config.uses_auxiliary_losses:
            install_losses(model)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        remove_losses(self.model)
        return model
