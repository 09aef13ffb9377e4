"""What a PEFT method is to the rest of the program: a name, its options, its configuration, its size.

In: AdapterOptions, the same for every method; None leaves an option to the method. Out: a PeftConfig.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from peft import PeftConfig

from llava_teamlora.tuners.low_rank.config import LowRankConfig
from llava_teamlora.tuners.low_rank.targets import FFN_TARGETS


@dataclass(frozen=True)
class AdapterOptions:
    """What a user can say about an adapter. None means "not said": the method's own default holds.

    Args:
        r: rank (of one expert, in methods with experts; at the start, in AdaLoRA).
        num_experts: number of experts, k.
        alpha: the update is scaled by alpha / r.
        dropout: probability of dropping an input of the adapter.
        bias: which of the model's biases train along: "none", "all", or "lora_only": the adapted linears' (LoRA).
        router_hidden: width of an MLP router; not said: a linear router.
        interaction_init: "uniform", "literal" or "identity".
        train_interaction: whether there is an interaction matrix to learn.
        balance_loss_coef: weight of the load-balance loss.
        router_z_loss_coef: weight of the router z-loss.
        impl: "auto", "linear" or "reference": what computes a routed adapter; changes its speed, and is not saved.
        mixer_init: "kaiming" or "orthogonal" (MoSLoRA).
        rank_pattern: other ranks for some linears, by name.
        target_r: average rank at the end (AdaLoRA).
        total_step: optimizer steps of the whole training (AdaLoRA's schedule).
        num_virtual_tokens: length of a learned prompt.
        target_modules: names of the linears to adapt, a regular expression for whole names, or "all-linear".
        feedforward_modules: those of them whose input is scaled instead of their output (IA3).
        modules_to_save: names of modules that are trained in full and saved beside the adapter.
    """

    r: int | None = None
    num_experts: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    bias: str | None = None
    router_hidden: int | None = None
    interaction_init: str | None = None
    train_interaction: bool | None = None
    balance_loss_coef: float | None = None
    router_z_loss_coef: float | None = None
    impl: str | None = None
    mixer_init: str | None = None
    rank_pattern: dict[str, int] | None = None
    target_r: int | None = None
    total_step: int | None = None
    num_virtual_tokens: int | None = None
    target_modules: tuple[str, ...] | list[str] | str | None = None
    feedforward_modules: tuple[str, ...] | list[str] | str | None = None
    modules_to_save: tuple[str, ...] | list[str] | None = None

    def said(self) -> dict[str, Any]:
        """Return the options that say something, sequences as lists."""
        said: dict[str, Any] = {}
        for option in fields(self):
            value = getattr(self, option.name)
            # A coefficient of 0 says no more than None: without the loss is what every method can do.
            if value is not None and not (option.name.endswith("_coef") and value == 0):
                said[option.name] = list(value) if isinstance(value, tuple) else value
        return said


@dataclass(frozen=True)
class Site:
    """A module that an adapter sits on.

    Args:
        name: its path in the model.
        d_in: width of its input; the number of rows of an embedding.
        d_out: width of its output.
    """

    name: str
    d_in: int
    d_out: int


Build = Callable[[dict[str, Any]], PeftConfig | None]
Count = Callable[[PeftConfig, Sequence[Site]], int]


@dataclass(frozen=True)
class Method:
    """One way to tune a model.

    Args:
        name: its key in METHODS.
        summary: one line for --help and tables.
        options: names of the AdapterOptions it understands.
        make: builds its configuration from the options said, all of them understood; None is no adapter at all:
            the model's own weights are trained.
        count: number of trainable adapter parameters on these sites.
        defaults: model type to the fields that say what is adapted there, for when `target_modules` is not said.
        least_r: the smallest rank it can have.
    """

    name: str
    summary: str
    options: tuple[str, ...]
    make: Build
    count: Count
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    least_r: int = 1

    def build(self, options: AdapterOptions, model_type: str | None = None) -> PeftConfig | None:
        """Build the method's configuration.

        Args:
            options: what is said of the adapter.
            model_type: of the model to adapt, as its config names it: says what is adapted by default.

        Returns:
            The configuration; None if the method puts no adapter on the model.

        Raises:
            ValueError: if an option was said that the method does not have, or its value is bad.
        """
        said = options.said()
        for name, value in said.items():
            if name not in self.options:
                raise ValueError(f"method {self.name!r} has no option {name} (got {value!r}): leave it out")
        if "target_modules" not in said and model_type is not None:
            said = {**self.defaults.get(model_type, {}), **said}
        return self.make(said)


FFN = {model_type: {"target_modules": targets} for model_type, targets in FFN_TARGETS.items()}
"""Defaults of every method that adapts feed-forward linears, as the paper does."""


def ours(config_class: type[LowRankConfig], summary: str) -> Method:
    """Describe a method of this package: its options are the fields of its configuration."""
    known = {option.name for option in fields(AdapterOptions)}
    options = tuple(f.name for f in fields(config_class) if f.name in known)
    return Method(config_class.method, summary, options, lambda said: config_class(**said), _count_ours, FFN)


def _count_ours(config: PeftConfig, sites: Sequence[Site]) -> int:
    assert isinstance(config, LowRankConfig)
    return sum(config.at(site.name).count_parameters(site.d_in, site.d_out) for site in sites)
