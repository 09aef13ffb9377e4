"""Parameter budgets: what a model trains, and the rank at which a method trains a given number of parameters.

In: a model, or the sites of an adapter on it. Out: a table, or a rank. Only shapes are read: nothing is
allocated, and a model on the meta device will do. Percentages are of the base model's parameters, as in the paper's
Table 2.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

from peft import PeftConfig, PromptEmbedding, PromptTuningConfig
from peft.tuners.tuners_utils import (
    BaseTunerLayer,
    _maybe_include_all_linear_layers,
    check_target_module_exists,
)
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.low_rank.layer import linear_shape
from llava_teamlora.tuners.low_rank.targets import FFN_TARGETS
from llava_teamlora.tuners.method import Site

TOLERANCE = 0.01


@dataclass(frozen=True)
class ParameterRow:
    """One group of trained parameters.

    Args:
        group: "adapter <weight>" for an adapter's weights, else the path of the module they belong to.
        parameters: how many are trained.
        size_bytes: their size.
        percent_of_base: 100 * parameters / the base model's parameters.
    """

    group: str
    parameters: int
    size_bytes: int
    percent_of_base: float


@dataclass(frozen=True)
class ParameterTable:
    """What a model trains: rows by group, their sum, and the base model's number of parameters."""

    rows: tuple[ParameterRow, ...]
    trainable: int
    base: int

    def __str__(self) -> str:
        lines = [f"{'trained':<44}{'parameters':>15}{'% of base':>11}{'MiB':>10}"]
        total = ParameterRow("total", self.trainable, sum(r.size_bytes for r in self.rows), 0.0)
        for row in (*self.rows, replace(total, percent_of_base=_percent(self.trainable, self.base))):
            mib = row.size_bytes / 2**20
            lines.append(f"{row.group:<44}{row.parameters:>15,}{row.percent_of_base:>11.4f}{mib:>10.2f}")
        lines.append(f"{'base model':<44}{self.base:>15,}")
        return "\n".join(lines)


def count_trainable(model: nn.Module) -> ParameterTable:
    """Count what a model trains, by group; shared parameters once.

    Args:
        model: any model, with or without adapters.

    Returns:
        Rows in the order of the model's parameters. Adapters and the trained copies of modules_to_save are no
        part of the base.
    """
    counts: dict[str, list[int]] = {}
    base = 0
    added = _added_parameters(model)
    for name, parameter in model.named_parameters():
        numel = count_elements(parameter)
        group = added.get(name)
        if group is None:
            base += numel
            group = _module_path(name)
        if parameter.requires_grad:
            entry = counts.setdefault(group, [0, 0])
            entry[0] += numel
            entry[1] += numel * parameter.element_size()
    rows = tuple(ParameterRow(g, n, size, _percent(n, base)) for g, (n, size) in counts.items())
    return ParameterTable(rows, sum(row.parameters for row in rows), base)


def adapted_sites(model: nn.Module, config: PeftConfig) -> list[Site]:
    """Return the modules that a configuration's adapter sits on, in a model without adapters.

    Raises:
        ValueError: if its targets match none.
    """
    if isinstance(config, PromptTuningConfig):
        embedding = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
        return [Site("input embedding", embedding.num_embeddings, embedding.embedding_dim)]
    if getattr(config, "target_modules", None) == DUMMY_TARGET_MODULES:
        return []
    matcher = copy(config)
    if getattr(matcher, "target_modules", None) is None:
        if _model_type(model) not in FFN_TARGETS:
            raise ValueError(f"set target_modules: those of model type {_model_type(model)!r} are not known")
        matcher.target_modules = FFN_TARGETS[str(_model_type(model))]  # pyright: ignore[reportAttributeAccessIssue]
    matcher = _maybe_include_all_linear_layers(matcher, model)
    found = [(name, module) for name, module in model.named_modules() if check_target_module_exists(matcher, name)]
    if not found:
        raise ValueError(f"target_modules={getattr(matcher, 'target_modules', None)!r} matches no module of the model")
    return [Site(name, *linear_shape(module)) for name, module in found]


def count_adapter(method: str, options: AdapterOptions, where: nn.Module | Sequence[Site]) -> int:
    """Return how many parameters a method's adapter trains, without making it; modules_to_save are not counted.

    Args:
        method: a key of METHODS.
        options: its options.
        where: a model without adapters, or the adapter's sites.

    Raises:
        ValueError: if the options do not fit the method, or match nothing in the model.
    """
    config = METHODS[method].build(options, _model_type(where))
    if config is None:
        return 0
    sites = adapted_sites(where, config) if isinstance(where, nn.Module) else where
    return METHODS[method].count(config, sites)


def match_rank(
    method: str, options: AdapterOptions, where: nn.Module | Sequence[Site], target: int, beside: int = 0
) -> AdapterOptions:
    """Choose the rank at which a method's adapter trains the number of parameters nearest to `target`.

    Where no one rank comes within 1 %, the first linears get one rank more than the rest (`rank_pattern`), as many as
    it takes.

    Args:
        method: a key of METHODS.
        options: its options; `r` and `rank_pattern` are not used.
        where: a model without adapters, or the adapter's sites.
        target: number of trainable adapter parameters wanted.
        beside: number of parameters that are trained beside the adapter anyway; 1 % is meant of the sum.

    Returns:
        The options with the rank.

    Raises:
        ValueError: if the method has no rank, or misses the target by more than 1 % with every rank it can have.
    """
    chosen = METHODS[method]
    if "r" not in chosen.options:
        raise ValueError(
            f"method {method!r} has no rank to choose: run it as it is, its number of parameters stands in the table"
        )
    options = replace(options, rank_pattern=None)
    least = max(chosen.least_r, (options.target_r or 0) + 1)  # AdaLoRA starts above where it ends
    model_type = _model_type(where)
    if isinstance(where, nn.Module):
        config = chosen.build(replace(options, r=least), model_type)
        sites = adapted_sites(where, config) if config is not None else []
    else:
        sites = where

    def count(rank: int, more: int = 0) -> int:
        """Parameters at this rank, `more` sites at one rank higher."""
        config = chosen.build(_ranked(options, sites, rank, more), model_type)
        return chosen.count(config, sites) if config is not None else 0

    high = least + 1
    while count(high) < target:
        high *= 2
    low, high = _halve(count, least, high, target)
    found = [(low, 0), (high, 0)]
    allowed = TOLERANCE * (target + beside)
    if min(abs(count(*each) - target) for each in found) > allowed and "rank_pattern" in chosen.options:
        found += [(low, more) for more in _halve(lambda more: count(low, more), 0, len(sites), target)]
    best = min(found, key=lambda each: abs(count(*each) - target))
    reached = count(*best)
    if abs(reached - target) > allowed:
        wanted = target + beside
        raise ValueError(
            f"no rank of {method!r} comes within 1 % of {wanted:,} trainable parameters: the nearest, r={best[0]}, "
            f"trains {reached + beside:,} ({100 * (reached - target) / wanted:+.1f} %); choose another target, options "
            "(such as num_experts) with a finer step, or set that rank yourself"
        )
    return _ranked(options, sites, *best)


def _halve(count: Callable[[int], int], low: int, high: int, target: int) -> tuple[int, int]:
    """Return the neighbours between `low` and `high` at which a count that grows passes the target."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    return low, high


def _ranked(options: AdapterOptions, sites: Sequence[Site], rank: int, more: int) -> AdapterOptions:
    """Options at a rank, the first `more` sites at one rank higher."""
    pattern = {site.name: rank + 1 for site in sites[:more]}
    return replace(options, r=rank, rank_pattern=pattern or None)


def _model_type(model: object) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)


def _added_parameters(model: nn.Module) -> dict[str, str]:
    """Return the group of each parameter that is not the base's: adapters' and trained copies of modules."""
    added: dict[str, str] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, BaseTunerLayer):
            # AdaLoRA keeps a parameter that is not trained among the others.
            for weight in (*module.adapter_layer_names, *module.other_param_names):
                held = getattr(module, weight, None)
                if isinstance(held, nn.Module):
                    added.update({f"{prefix}{weight}.{n}": f"adapter {weight}" for n, _ in held.named_parameters()})
        elif isinstance(module, PromptEmbedding):
            added.update({f"{prefix}{n}": "adapter virtual tokens" for n, _ in module.named_parameters()})
        elif isinstance(module, AuxiliaryTrainingWrapper) and hasattr(module, "modules_to_save"):
            copies = module.modules_to_save
            assert isinstance(copies, nn.Module)
            names = (name for name, _ in copies.named_parameters())
            added.update({f"{prefix}modules_to_save.{name}": _clean(path) for name in names})
    return added


def _clean(path: str) -> str:
    """Drop what peft puts before the model's own names."""
    return path.removeprefix("base_model.model.")


def _module_path(name: str) -> str:
    """Return the first two parts of a parameter's path, without the parameter itself."""
    parts = _clean(name).split(".")[:-1]
    return ".".join(parts[:2]) or _clean(name)


def count_elements(parameter: nn.Parameter) -> int:
    """Count elements, also of DeepSpeed's partitioned and bitsandbytes' packed 4-bit weights."""
    numel = int(getattr(parameter, "ds_numel", parameter.numel()))
    if type(parameter).__name__ == "Params4bit":
        return numel * 2 * parameter.element_size()
    return numel


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
