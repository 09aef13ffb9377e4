"""PEFT methods by name: one literal dict, METHODS, from a method's name to how its configuration is built.

In: AdapterOptions, the same for every method; None leaves an option to the method. Out: a PeftConfig. Importing
this package registers this project's methods with peft.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from peft import LoraConfig, PeftConfig

from llava_teamlora.tuners.hydralora import HydraLoraConfig
from llava_teamlora.tuners.moelora import MoeLoraConfig
from llava_teamlora.tuners.moslora import MosLoraConfig
from llava_teamlora.tuners.teamlora import TeamLoraConfig

__all__ = ["METHODS", "AdapterOptions", "Method", "build_config"]


@dataclass(frozen=True)
class AdapterOptions:
    """What a user can say about an adapter. None means "not said": the method's own default holds.

    Args:
        r: rank (of one expert, in methods with experts).
        num_experts: number of experts, k.
        alpha: the update is scaled by alpha / r.
        dropout: probability of dropping an input of the adapter.
        router_hidden: width of an MLP router; not said: a linear router.
        interaction_init: "uniform", "literal" or "identity".
        train_interaction: whether the interaction matrix is trained.
        balance_loss_coef: weight of the load-balance loss.
        router_z_loss_coef: weight of the router z-loss.
        target_modules: names of the linears to adapt, a regular expression for whole names, or "all-linear".
        modules_to_save: names of modules that are trained in full and saved beside the adapter.
    """

    r: int | None = None
    num_experts: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    router_hidden: int | None = None
    interaction_init: str | None = None
    train_interaction: bool | None = None
    balance_loss_coef: float | None = None
    router_z_loss_coef: float | None = None
    target_modules: tuple[str, ...] | list[str] | str | None = None
    modules_to_save: tuple[str, ...] | list[str] | None = None

    def said(self) -> dict[str, object]:
        """Return the options that say something, sequences as lists."""
        said: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            # A coefficient of 0 says no more than None: without the loss is what every method can do.
            if value is not None and not (field.name.endswith("_coef") and value == 0):
                said[field.name] = list(value) if isinstance(value, tuple) else value
        return said


@dataclass(frozen=True)
class Method:
    """One PEFT method.

    Args:
        name: its key in METHODS.
        summary: one line for --help and tables.
        options: names of the AdapterOptions it understands.
        make: builds its configuration from the options said, all of them understood.
        count: number of trainable parameters on one linear ``(config, D_in, D_out)``.
    """

    name: str
    summary: str
    options: tuple[str, ...]
    make: Callable[[dict[str, object]], PeftConfig]
    count: Callable[[PeftConfig, int, int], int]

    def build(self, options: AdapterOptions) -> PeftConfig:
        """Build the method's configuration.

        Raises:
            ValueError: if an option was said that the method does not have, or its value is bad.
        """
        said = options.said()
        for name, value in said.items():
            if name not in self.options:
                raise ValueError(
                    f"method {self.name!r} has no option {name} (got {value!r}): leave it out, or choose a method "
                    f"that has it ({', '.join(m.name for m in METHODS.values() if name in m.options)})"
                )
        return self.make(said)


def build_config(method: str, options: AdapterOptions) -> PeftConfig:
    """Build the configuration of the method of this name.

    Raises:
        ValueError: if there is no such method, or the options do not fit it.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    return METHODS[method].build(options)


def _teamlora(said: dict[str, object]) -> PeftConfig:
    return TeamLoraConfig(**said)  # pyright: ignore[reportArgumentType]


def _count_teamlora(config: PeftConfig, d_in: int, d_out: int) -> int:
    """Count A and B, the router, and M where it is trained."""
    assert isinstance(config, TeamLoraConfig)
    k, hidden = config.num_experts, config.router_hidden
    router = d_in * k if hidden is None else (d_in + k) * hidden
    return k * config.r * (d_in + d_out) + router + (k * k if config.train_interaction else 0)


_LORA_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}


def _lora(said: dict[str, object]) -> PeftConfig:
    if "target_modules" not in said:
        raise ValueError(
            "method 'lora' needs target_modules: peft's own default for LoRA is the attention, not the "
            "feed-forward linears that TeamLoRA adapts"
        )
    named = {"r": 8, "alpha": 16} | said
    renamed = {_LORA_NAMES.get(name, name): value for name, value in named.items()}
    return LoraConfig(**renamed)  # pyright: ignore[reportArgumentType]


def _count_lora(config: PeftConfig, d_in: int, d_out: int) -> int:
    assert isinstance(config, LoraConfig)
    return config.r * (d_in + d_out)


_SHARED = ("r", "alpha", "dropout", "target_modules", "modules_to_save")
_ROUTED = (*_SHARED, "num_experts", "router_hidden", "balance_loss_coef", "router_z_loss_coef")

METHODS: dict[str, Method] = {
    "teamlora": Method(
        name="teamlora",
        summary="TeamLoRA: one A, k experts B, routing through an interaction matrix",
        options=(*_ROUTED, "interaction_init", "train_interaction"),
        make=_teamlora,
        count=_count_teamlora,
    ),
    "lora": Method(
        name="lora",
        summary="LoRA, peft's own: one A, one B, no routing",
        options=_SHARED,
        make=_lora,
        count=_count_lora,
    ),
}
