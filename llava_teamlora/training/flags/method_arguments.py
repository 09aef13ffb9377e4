"""How a run tunes: the method and its options, as flags."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError, nearest
from llava_teamlora.training.flags.flag import flag
from llava_teamlora.tuners import METHODS, AdapterOptions


@dataclass
class MethodArguments:
    """How it is tuned."""

    method: str = flag(
        "; ".join(f"{m.name}: {m.summary.partition(': ')[2] or m.summary}" for m in METHODS.values()), "teamlora"
    )
    r: int | None = flag("Rank; of one expert for routed methods, at the start for adalora (default 8; 12).", None)
    alpha: float | None = flag("The update is scaled by alpha / r (default 16).", None)
    dropout: float | None = flag("Dropout on the adapter's input (default 0).", None)
    bias: str | None = flag(
        "lora: biases of the model that train along: none, all, or lora_only, those of the adapted linears (default "
        "none; LLaMA has none).",
        None,
    )
    num_experts: int | None = flag("Experts k of a routed method (default 4).", None)
    router_hidden: int | None = flag("Hidden width of an MLP router; unset is a linear one.", None)
    interaction_init: str | None = flag(
        "Routed methods: how the interaction matrix starts: uniform, literal or identity (default: uniform for "
        "teamlora, identity for the others).",
        None,
    )
    train_interaction: bool | None = flag(
        "Routed methods: learn the interaction matrix (default: True for teamlora, False for the others).", None
    )
    balance_loss_coef: float | None = flag("Weight of the load-balance loss (default 0).", None)
    router_z_loss_coef: float | None = flag("Weight of the router z-loss (default 0).", None)
    impl: str | None = flag(
        "Routed methods: what computes them: auto, the fastest form that can run; linear, custom autograd for each "
        "linear by itself; reference, plain operations (default auto).",
        None,
    )
    mixer_init: str | None = flag("moslora: kaiming or orthogonal (default kaiming).", None)
    target_r: int | None = flag("adalora: average rank at the end (default two thirds of r).", None)
    num_virtual_tokens: int | None = flag("prompt_tuning: length of the learned prompt (default 20).", None)
    target_modules: str | None = flag(
        "Regex of the linears that carry the adapter, or all-linear: all of the language model's but lm_head (default: "
        "its FFN; for ia3 its keys, values and down projections).",
        None,
    )
    feedforward_modules: str | None = flag("ia3: regex of the targets whose input is scaled.", None)
    adapter_name_or_path: str | None = flag(
        "Run folder or adapter folder to start the adapter (and the projector) from; with the same method and options, "
        "most easily by --config FOLDER/run.yaml.",
        None,
    )
    match_params: str | None = flag(
        "Choose the rank so that the adapter's parameters equal another method's to within one percent, "
        "e.g. teamlora:r=8,num_experts=4",
        None,
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise UserError(f"--method {self.method!r} is not one of {known}{nearest(self.method, METHODS)}")
        if self.match_params is not None and self.r is not None:
            raise UserError("--match_params chooses the rank: drop --r")
        self.matched()
        try:
            METHODS[self.method].build(self.options((PROJECTOR,)), _MODEL_TYPE)
        except ValueError as error:
            raise UserError(str(error)) from error

    def options(self, modules_to_save: tuple[str, ...] | None = None) -> AdapterOptions:
        """What was said of the adapter."""
        names = {f.name for f in dataclasses.fields(AdapterOptions)} & {f.name for f in dataclasses.fields(self)}
        said = {name: getattr(self, name) for name in names}
        return _scheduled(self.method, AdapterOptions(modules_to_save=modules_to_save, **said))

    def matched(self) -> tuple[str, AdapterOptions] | None:
        """Method and options that ``--match_params`` names; None when it is not given.

        Raises:
            UserError: not of the form ``method:option=value,…``.
        """
        if self.match_params is None:
            return None
        name, _, rest = self.match_params.partition(":")
        if name not in METHODS:
            raise UserError(f"--match_params: {name!r} is not one of {', '.join(METHODS)}{nearest(name, METHODS)}")
        options: dict[str, Any] = {}
        for pair in filter(None, rest.split(",")):
            key, _, value = pair.partition("=")
            if key not in METHODS[name].options or not value.isdecimal():
                raise UserError(
                    f"--match_params {self.match_params!r}: {pair!r} is not an option=number of {name}; "
                    "write e.g. teamlora:r=8"
                )
            options[key] = int(value)
        if self.target_modules is not None and {"r", "target_modules"} <= set(METHODS[name].options):
            options["target_modules"] = self.target_modules
        matched = _scheduled(name, AdapterOptions(**options))
        try:
            config = METHODS[name].build(matched, _MODEL_TYPE)
        except ValueError as error:
            raise UserError(f"--match_params {self.match_params!r}: {error}") from error
        if config is None:
            raise UserError(f"--match_params {self.match_params!r}: {name} has no adapter to match")
        return name, matched


_MODEL_TYPE = "llava"


def _scheduled(method: str, options: AdapterOptions) -> AdapterOptions:
    """Give AdaLoRA some number of steps; the true one is set when training starts (training/adalora.py)."""
    if "total_step" not in METHODS[method].options:
        return options
    return dataclasses.replace(options, total_step=1000)
