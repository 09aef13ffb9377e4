"""What stands in for peft's own rows: for each of our methods, the cases that its test matrices run.

Chosen as peft does for its closest methods (LoRA, HRA, MiSS): linears and GPT-2's Conv1D on small models, one or
several targets, modules_to_save, dropout; no convolutions, embeddings or attention modules, which our tuners refuse.
On top come the fields that are a method's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llava_teamlora.errors import UserError, nearest

Fields = dict[str, Any]


@dataclass(frozen=True)
class MethodCases:
    """Cases of one method.

    Args:
        name: as in ``--method``.
        title: as in reports and test names.
        config: name of its configuration in ``llava_teamlora``.
        merges: False if merging is refused because the update depends on the input; every merge test must then end in
            that refusal.
        custom: (model of peft's custom suite, fields) pairs.
        decoder: fields of a configuration that leaves target_modules to the method.
    """

    name: str
    title: str
    config: str
    merges: bool
    custom: tuple[tuple[str, Fields], ...]
    decoder: tuple[Fields, ...]

    @property
    def config_class(self) -> type:
        """Its configuration class; importing it imports peft."""
        import llava_teamlora

        return getattr(llava_teamlora, self.config)


_LINEARS: tuple[tuple[str, Fields], ...] = (
    ("MLP", {"target_modules": "lin0"}),
    ("MLP", {"target_modules": ["lin0"]}),
    ("MLP", {"target_modules": ["lin1"], "r": 2, "alpha": 4}),
    ("MLP", {"target_modules": ["lin0", "lin1"]}),
    ("MLP", {"target_modules": ["lin0", "lin1"], "dropout": 0.1}),
    ("MLP", {"target_modules": "all-linear", "exclude_modules": ["lin1"]}),
    ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("EmbConv1D", {"target_modules": ["conv1d"]}),
    ("EmbConv1D", {"target_modules": ["conv1d", "lin0"], "r": 2}),
)
_EXPERTS: tuple[tuple[str, Fields], ...] = (
    ("MLP", {"target_modules": ["lin0"], "r": 2, "num_experts": 2}),
    ("MLP", {"target_modules": ["lin0"], "num_experts": 1}),
    ("MLP", {"target_modules": ["lin0", "lin1"], "router_hidden": 3}),
)
_WITH_MATRIX: Fields = {"interaction_init": "uniform", "train_interaction": True}
_WITHOUT_MATRIX: Fields = {"interaction_init": "identity", "train_interaction": False}
_CAUSAL_LM: Fields = {"task_type": "CAUSAL_LM", "target_modules": None}
_DECODER_EXPERTS: tuple[Fields, ...] = (
    _CAUSAL_LM,
    {**_CAUSAL_LM, "r": 2, "num_experts": 3, "router_hidden": 5, "dropout": 0.05},
    {**_CAUSAL_LM, "balance_loss_coef": 0.01, "router_z_loss_coef": 0.001},
)

METHODS: dict[str, MethodCases] = {
    "teamlora": MethodCases(
        name="teamlora",
        title="TeamLoRA",
        config="TeamLoraConfig",
        merges=False,
        custom=(
            *_LINEARS,
            *_EXPERTS,
            ("MLP", {"target_modules": ["lin0"], "interaction_init": "literal"}),
            ("MLP", {"target_modules": ["lin0"], **_WITHOUT_MATRIX}),
        ),
        decoder=(*_DECODER_EXPERTS, {**_CAUSAL_LM, **_WITHOUT_MATRIX}),
    ),
    "moelora": MethodCases(
        name="moelora",
        title="MoELoRA",
        config="MoeLoraConfig",
        merges=False,
        custom=(*_LINEARS, *_EXPERTS, ("MLP", {"target_modules": ["lin0"], **_WITH_MATRIX})),
        decoder=(*_DECODER_EXPERTS, {**_CAUSAL_LM, **_WITH_MATRIX}),
    ),
    "hydralora": MethodCases(
        name="hydralora",
        title="HydraLoRA",
        config="HydraLoraConfig",
        merges=False,
        custom=(*_LINEARS, *_EXPERTS, ("MLP", {"target_modules": ["lin0"], **_WITH_MATRIX})),
        decoder=(*_DECODER_EXPERTS, {**_CAUSAL_LM, **_WITH_MATRIX}),
    ),
    "moslora": MethodCases(
        name="moslora",
        title="MoSLoRA",
        config="MosLoraConfig",
        merges=True,
        custom=(*_LINEARS, ("MLP", {"target_modules": ["lin0"], "mixer_init": "orthogonal"})),
        decoder=(_CAUSAL_LM, {**_CAUSAL_LM, "r": 2, "dropout": 0.05}),
    ),
}


def choose_methods(names: Iterable[str]) -> list[MethodCases]:
    """Return the cases of these methods, of all for no names, in the order of METHODS.

    Raises:
        UserError: if there is no such method.
    """
    chosen = set(names) or set(METHODS)
    for name in sorted(chosen - set(METHODS)):
        raise UserError(f"--method {name}: no such method{nearest(name, METHODS)}; choose from {', '.join(METHODS)}")
    return [cases for name, cases in METHODS.items() if name in chosen]
