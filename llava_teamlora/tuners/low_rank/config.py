"""What the configurations of all our methods share: their common fields and the checks on them."""

import math
import re
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig
from peft.utils.other import get_pattern_key
from typing_extensions import Self

from llava_teamlora.tuners.low_rank.registration import add_peft_type


@dataclass
class LowRankConfig(PeftConfig):
    """Fields of every low-rank adapter. Bad values are refused when the configuration is made.

    Args:
        r: rank (of one expert, in methods with experts), >= 1.
        alpha: > 0; the update is scaled by ``alpha / r``.
        dropout: probability in [0, 1) of dropping an input of A.
        target_modules: names (or endings of names) of the linears to adapt, or one regular expression for
            whole names, or "all-linear". None adapts the feed-forward linears of model types that are known.
            For LLaVA name the language model, or else a vision tower with equal names is adapted too:
            ``r".*language_model.*\\.(gate_proj|up_proj|down_proj)"``.
        exclude_modules: names or a regular expression of linears to leave out.
        modules_to_save: names of modules that are trained in full and saved beside the adapter.
        layers_to_transform: indices of the layers to adapt; None for all. Needs `target_modules` as a list.
        layers_pattern: name of the model's layer list, where `layers_to_transform` cannot tell it.
        rank_pattern: other ranks for some linears, by name (or its ending, or a regular expression for either).
        init_weights: True starts from the base model's own output; False makes every weight random, for tests.

    A subclass names its `method`, in lower case: what peft knows it by, and what its weights' names begin with.

    Raises:
        ValueError: naming the field, its value and the remedy.
    """

    method: ClassVar[str] = ""

    r: int = field(default=8, metadata={"help": "Rank, of one expert where there are experts."})
    alpha: float = field(default=16, metadata={"help": "The update is scaled by alpha / r."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of A."})
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Linears to adapt: names, a regular expression, or 'all-linear'."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Linears to leave out: names or a regular expression."}
    )
    modules_to_save: list[str] | tuple[str, ...] | set[str] | None = field(
        default=None, metadata={"help": "Modules trained in full and saved beside the adapter."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the model's layer list, for layers_to_transform."}
    )
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Other ranks, by module name."})
    init_weights: bool = field(default=True, metadata={"help": "False makes every weight random, for tests."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(self.method.upper())
        for name in ("target_modules", "exclude_modules", "layers_pattern"):
            check_names(name, getattr(self, name), pattern=True)
        check_names("modules_to_save", self.modules_to_save, pattern=False)
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        if self.modules_to_save is not None:
            self.modules_to_save = sorted(self.modules_to_save)  # a list: what peft writes and extends
        check_count("r", self.r, "the rank, of one expert where there are experts")
        if not isinstance(self.rank_pattern, dict):
            raise ValueError(f"rank_pattern must map names to ranks, got {self.rank_pattern!r}")
        for name, rank in self.rank_pattern.items():
            check_count(f"rank_pattern[{name!r}]", rank, "the rank of the linears of that name")
        check_range("alpha", self.alpha, "a number > 0 (the update is scaled by alpha / r)", above=0.0)
        check_range("dropout", self.dropout, "a probability in [0, 1)", least=0.0, below=1.0)
        check_flag("init_weights", self.init_weights)
        check_targets(self)

    def at(self, name: str) -> Self:
        """Return the configuration that holds for the linear of this name: `rank_pattern` applied."""
        key = get_pattern_key(list(self.rank_pattern), name)
        rank = self.rank_pattern.get(key, self.r)
        if rank == self.r:
            return self
        there = copy(self)
        there.r = rank
        return there

    def count_parameters(self, d_in: int, d_out: int) -> int:
        """Return how many parameters the adapter trains on a linear of these widths."""
        raise NotImplementedError


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_count(name: str, value: Any, meaning: str) -> None:
    """Raise ValueError unless `value` is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1 ({meaning}), got {value!r}")


def check_range(
    name: str,
    value: Any,
    wanted: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raise ValueError unless `value` is finite, with ``least <= value`` and ``above < value < below``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and least <= value and above < value < below):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def check_names(name: str, value: Any, *, pattern: bool) -> None:
    """Raise ValueError unless `value` is None, a collection of names or, with `pattern`, a regular expression."""
    if isinstance(value, str) and pattern:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f"{name}={value!r} is no regular expression ({error}): a string must match whole module names; to "
                "give plain names, use a list"
            ) from error
        return
    if isinstance(value, str):
        raise ValueError(f"{name} must be a list of module names, got the string {value!r}: write [{value!r}]")
    is_names = isinstance(value, (list, tuple, set)) and all(isinstance(n, str) and n for n in value)
    if value is not None and not is_names:
        also = ", or one regular expression as a string" if pattern else ""
        raise ValueError(f"{name} must be a list of module names{also}, got {value!r}")


def check_targets(config: Any) -> None:
    """Raise ValueError where the choice of layers could not be honoured (peft would ignore it in silence)."""
    targets, indices = config.target_modules, config.layers_to_transform
    if targets is not None and not targets:
        raise ValueError(f"target_modules is empty ({targets!r}): name the linears to adapt, or 'all-linear'")
    if config.layers_pattern is not None and indices is None:
        raise ValueError(
            f"layers_pattern={config.layers_pattern!r} has no effect without layers_to_transform: set the layer "
            "indices there, or drop layers_pattern"
        )
    if indices is None:
        return
    listed = indices if isinstance(indices, (list, tuple)) else [indices]
    if not listed or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in listed):
        raise ValueError(f"layers_to_transform must be a layer index >= 0 or a list of them, got {indices!r}")
    if isinstance(targets, str):
        raise ValueError(
            f"layers_to_transform={indices!r} cannot be combined with target_modules={targets!r}: a regular "
            "expression (and 'all-linear') matches whole names, so write the layer indices into it, or list the "
            "module names"
        )


def _as_set(names: Any) -> set[str] | str | None:
    """Return names as peft holds them: a set, or the string of a regular expression."""
    return set(names) if isinstance(names, (list, tuple)) else names
