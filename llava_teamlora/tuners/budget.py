"""Parameter budgets: what a model trains, and the rank at which a method trains a given number of parameters.

In: a model or the shapes of its adapted linears. Out: a table, or a rank. Only shapes are read: nothing is
allocated, and a model on the meta device will do. Percentages are of the base model's parameters, as in the paper's
Table 2.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

from peft import PeftConfig
from peft.tuners.tuners_utils import (
    BaseTunerLayer,
    _maybe_include_all_linear_layers,
    check_target_module_exists,
)
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.low_rank.layer import linear_shape
from llava_teamlora.tuners.low_rank.targets import FFN_TARGETS

Shapes = Sequence[tuple[int, int]]
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
        numel = _numel(parameter)
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


def adapted_shapes(model: nn.Module, config: PeftConfig) -> list[tuple[int, int]]:
    """Return (D_in, D_out) of the linears that the configuration's targets match in a model without adapters.

    Raises:
        ValueError: if they match none.
    """
    matcher = copy(config)
    if getattr(matcher, "target_modules", None) is None:
        model_type = str(getattr(getattr(model, "config", None), "model_type", None))
        if model_type not in FFN_TARGETS:
            raise ValueError(f"set target_modules: those of model type {model_type!r} are not known")
        matcher.target_modules = FFN_TARGETS[model_type]  # pyright: ignore[reportAttributeAccessIssue]
    matcher = _maybe_include_all_linear_layers(matcher, model)
    modules = [module for name, module in model.named_modules() if check_target_module_exists(matcher, name)]
    if not modules:
        raise ValueError(f"target_modules={getattr(matcher, 'target_modules', None)!r} matches no module of the model")
    return [linear_shape(module) for module in modules]


def count_adapter(method: str, options: AdapterOptions, where: nn.Module | Shapes) -> int:
    """Return how many parameters a method's adapter trains, without making it.

    Args:
        method: a key of METHODS.
        options: its options.
        where: a model without adapters, or the (D_in, D_out) of each adapted linear.
    """
    config = METHODS[method].build(options)
    shapes = adapted_shapes(where, config) if isinstance(where, nn.Module) else where
    return sum(METHODS[method].count(config, d_in, d_out) for d_in, d_out in shapes)


def match_rank(method: str, options: AdapterOptions, where: nn.Module | Shapes, target: int) -> int:
    """Return the rank at which a method's adapter trains the number of parameters nearest to `target`.

    Args:
        method: a key of METHODS.
        options: its options; `r` is not used.
        where: a model without adapters, or the (D_in, D_out) of each adapted linear.
        target: number of trainable adapter parameters wanted.

    Returns:
        The rank, >= 1.

    Raises:
        ValueError: if the nearest rank misses the target by more than 1 %.
    """
    one = replace(options, r=1)
    config = METHODS[method].build(one)
    shapes = adapted_shapes(where, config) if isinstance(where, nn.Module) else where
    first = count_adapter(method, one, shapes)
    step = count_adapter(method, replace(options, r=2), shapes) - first
    # Every method's count is linear in r: first + (r - 1) * step.
    rank = max(1, 1 + round((target - first) / step))
    reached = first + (rank - 1) * step
    if abs(reached - target) > TOLERANCE * target:
        raise ValueError(
            f"no rank of {method!r} comes within 1 % of {target:,} trainable parameters: the nearest, r={rank}, "
            f"trains {reached:,} ({100 * (reached - target) / target:+.1f} %), and one rank more or less is "
            f"{step:,}; choose another target, or options (such as num_experts) with a finer step"
        )
    return rank


def _added_parameters(model: nn.Module) -> dict[str, str]:
    """Return the group of each parameter that is not the base's: adapters' and trained copies of modules."""
    added: dict[str, str] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, BaseTunerLayer):
            for weight in module.adapter_layer_names:
                held = getattr(module, weight, None)
                if isinstance(held, nn.Module):
                    names = (name for name, _ in held.named_parameters())
                    added.update({f"{prefix}{weight}.{name}": f"adapter {weight}" for name in names})
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


def _numel(parameter: nn.Parameter) -> int:
    """Count elements, also of DeepSpeed's partitioned and bitsandbytes' packed 4-bit weights."""
    numel = int(getattr(parameter, "ds_numel", parameter.numel()))
    if type(parameter).__name__ == "Params4bit":
        return numel * 2 * parameter.element_size()
    return numel


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
