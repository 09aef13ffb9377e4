"""The tuner every routed method shares: auxiliary losses, and packing for inference.

In: a model and a configuration. Out: the same model, its targeted linears replaced by the method's layer.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from llava_teamlora.tuners.low_rank.model import LowRankModel
from llava_teamlora.tuners.routed.auxiliary import install_losses, remove_losses
from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.inference import Prepared, prepare, restore
from llava_teamlora.tuners.routed.layer import RoutedLinear
from llava_teamlora.tuners.routed.mlp import install, uninstall


class RoutedModel(LowRankModel):
    """A model with routed adapters. A subclass sets `prefix` and `tuner_layer_cls`."""

    tuner_layer_cls: ClassVar[type[RoutedLinear]]
    _exact: bool | None = None  # as prepare_for_inference was asked; None where nobody wants packs

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Replace the targeted linears, then see to the auxiliary losses if the adapter has any, and to the MLPs.

        Raises:
            ValueError: if the configuration names what the model does not have.
        """
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        config = self.peft_config[adapter_name]
        assert isinstance(config, RoutedConfig)
        if config.uses_auxiliary_losses:
            install_losses(model)
        install(model)

    def prepare_for_inference(self, exact: bool = False) -> Prepared:
        """Pack the adapted linears, so that a token costs what it costs with LoRA or less; the model is in eval mode.

        Base weights become views of the packs. Passes with gradients, under autocast, or over more than a few tokens
        go the ordinary way; train(), a move, a cast, a load, another scale and state_dict(), which saving reads, undo
        it; another adapter is packed anew.
        Call it again after other changes: a new base weight or hook, a value put into `scaling` by hand, dropout turned
        on in evaluation mode.

        Args:
            exact: leave linears whose adapter has a wider dtype than the base weight: packing rounds it to that.

        Returns:
            How many linears are packed, and how many are left for which reason (logged too).
        """
        self._exact = exact
        self.eval()  # not only the model below; peft's wrapper around this one cannot be seen from here
        return prepare(self.model, exact)

    def restore_after_inference(self) -> None:
        """Undo `prepare_for_inference`: every base weight has a storage of its own again."""
        self._exact = None
        restore(self.model)

    def train(self, mode: bool = True) -> "RoutedModel":
        """Leave the packs for training; see nn.Module."""
        if mode:
            self._exact = None
        return super().train(mode)

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Activate adapters, see peft; a model prepared for inference is prepared anew."""
        super().set_adapter(*args, **kwargs)
        if self._exact is not None and not self.model.training:
            prepare(self.model, self._exact)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        restore(self.model)
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        remove_losses(self.model)
        uninstall(self.model)
        return model
