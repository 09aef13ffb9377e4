"""Whether a model has what a configuration names; peft passes over a name without a match in silence.

In: a configuration and a model, with or without adapters. Out: nothing, or a ValueError that names what is missing.
"""

import difflib
from collections.abc import Iterable, Sequence
from copy import copy

from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn

from llava_teamlora.tuners.low_rank.config import LowRankConfig

# peft adds all of them to modules_to_save for these tasks, whichever of them the model has.
_HEADS = {
    "SEQ_CLS": {"classifier", "score"},
    "TOKEN_CLS": {"classifier", "score"},
    "QUESTION_ANS": {"qa_outputs"},
}


def check_found(config: LowRankConfig, model: nn.Module, defaults: Sequence[str] | None, *, targets: bool) -> None:
    """Raise ValueError if a name or layer index in the configuration matches nothing in the model.

    Args:
        config: of the adapter that is about to be added.
        model: as it is before that.
        defaults: what is adapted where `target_modules` is left out. Not every model has all of these names.
        targets: whether `target_modules` and `layers_to_transform` are checked too.
    """
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    heads = _HEADS.get(str(getattr(config.task_type, "value", config.task_type)), set())
    # peft's own rule, which asks for no dot before the name.
    saved = [n for n in config.modules_to_save or () if n not in heads and not any(p.endswith(n) for p in paths)]
    _refuse("modules_to_save", saved, paths)
    ranked = [n for n in config.rank_pattern if not any(get_pattern_key([n], p) == n for p in paths)]
    _refuse("rank_pattern", ranked, paths)
    names = defaults if config.target_modules is None else config.target_modules
    if not targets or names is None or isinstance(names, str):
        return
    if defaults is None or isinstance(defaults, str) or set(names) != set(defaults):
        _refuse("target_modules", [n for n in names if not any(f".{p}".endswith(f".{n}") for p in paths)], paths)
    _check_layers(config, names, paths)


def _check_layers(config: LowRankConfig, names: Iterable[str], paths: Iterable[str]) -> None:
    """Raise ValueError if peft finds no target in a layer of `layers_to_transform`."""
    if config.layers_to_transform is None:
        return
    indices = config.layers_to_transform
    listed = [indices] if isinstance(indices, int) else list(indices)
    matcher = copy(config)
    matcher.target_modules, matcher.exclude_modules, matcher.modules_to_save = set(names), None, None
    near = [path for path in paths if _matches(matcher, path, None)]
    missing = [index for index in listed if not any(_matches(matcher, path, index) for path in near)]
    if missing:
        raise ValueError(
            f"layers_to_transform={indices!r}: the model has no target module in layer "
            f"{', '.join(map(str, missing))} (layers_pattern={config.layers_pattern!r}); name only layers that it has"
        )


def _matches(matcher: LowRankConfig, path: str, index: int | None) -> bool:
    """Ask peft whether a module is a target, in one layer or (None) in any."""
    matcher.layers_to_transform = index
    return bool(check_target_module_exists(matcher, path))


def _refuse(field: str, missing: Sequence[str], paths: Iterable[str]) -> None:
    if missing:
        known = sorted({path.rsplit(".", 1)[-1] for path in paths})
        near = [match for name in missing for match in difflib.get_close_matches(name, known, n=1)]
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "printing the model shows its names"
        raise ValueError(
            f"{field}: not found in the base model: {', '.join(map(repr, sorted(missing)))}; correct or drop the "
            f"name ({hint})"
        )
