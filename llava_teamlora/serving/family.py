"""Models that are served together: bases and their adapters, each base in memory once.

In: folders. Out: members that can be asked at the same time, each of them a tree of modules of its own, so that no
adapter is ever switched; adapters of one base share the base's tensors.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.checkpoint import Loaded
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Generator
from llava_teamlora.generation.loading import load_quietly
from llava_teamlora.generation.routing import routed_text_layers
from llava_teamlora.models.sharing import BasesInMemory
from llava_teamlora.run_card import FULL_FINETUNING

Kind = Literal["base", "adapter", "whole"]

_log = logging.getLogger("llava_teamlora.serving")


@dataclass(frozen=True)
class Member:
    """One model that can be asked.

    Attributes:
        id: what it is called.
        loaded: the model with all that a prompt needs.
        generator: what answers with it.
        kind: ``base`` as it is, ``adapter`` on a base, or ``whole``: trained in full.
        parent: of an adapter: the id of its base, if that is a member too.
        experts: of a routed adapter: how many each layer has; 0 for all others, which take no gains.
    """

    id: str
    loaded: Loaded
    generator: Generator
    kind: Kind
    parent: str | None = None
    experts: int = 0


@dataclass(frozen=True)
class Family:
    """Members by id, in the order in which they were named; the first is the one that is asked by default."""

    models: dict[str, Member]

    @property
    def first(self) -> Member:
        """Who answers where none is named."""
        return next(iter(self.models.values()))


def load_family(paths: Sequence[str], names: Mapping[str, str] | None = None, **load_options: Any) -> Family:
    """Load models to be served together.

    The first path, if a run folder with an adapter, becomes two members: the adapter, then its base as it was before,
    which is asked in the run's template. Further paths become one member each. Adapters on a base that is in memory
    share its weights; a model trained in full, or on another base, is loaded beside it.

    Args:
        paths: run folders, checkpoints, or bases.
        names: what members are to be called, by their path; others are called as their folder is, made unique.
        load_options: see ``checkpoint.load_model``.

    Raises:
        UserError: see ``checkpoint.load_model``; or a path or a name given twice.
    """
    if not paths:
        raise UserError("no model is named; give a run folder or a base")
    twice = [path for path, count in Counter(str(Path(path).resolve()) for path in paths).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name each model once")
    bases = BasesInMemory()
    loaded = [load_quietly(path, bases=bases, **load_options) for path in paths]
    if _kind(loaded[0]) == "adapter" and not _has_base_of(loaded[0], loaded[1:]):
        loaded.insert(1, load_quietly(paths[0], untuned=True, bases=bases, **load_options))
    _tell_of_others(loaded)
    return _family(loaded, _ids(loaded, names or {}))


def _kind(loaded: Loaded) -> Kind:
    if loaded.manifest["kind"] == "base":
        return "base"
    return "whole" if loaded.manifest["method"] == FULL_FINETUNING else "adapter"


def _has_base_of(adapter: Loaded, others: Iterable[Loaded]) -> bool:
    return any(_kind(other) == "base" and _content(other) == _content(adapter) for other in others)


def _content(loaded: Loaded) -> str:
    return loaded.manifest["base_fingerprint"]


def _tell_of_others(loaded: Sequence[Loaded]) -> None:
    """Say which models share nothing with the first."""
    for other in loaded[1:]:
        if _content(other) != _content(loaded[0]):
            why = "was trained in full" if _kind(other) == "whole" else "lies on another base"
            _log.warning("%s %s: its weights are in memory beside those of %s", other.name, why, loaded[0].name)


def _ids(loaded: Sequence[Loaded], names: Mapping[str, str]) -> list[str]:
    """A name for each: the one given, else its folder's, with a number if that is taken."""
    unknown = set(names) - {each.name for each in loaded}
    if unknown:
        raise UserError(f"{min(unknown)}: is given a name, but no such model is loaded")
    found = [names.get(each.name) for each in loaded]
    for place, each in enumerate(loaded):
        if found[place] is None:
            plain = _folder_name(each.name)
            several = (plain if number == 1 else f"{plain}-{number}" for number in range(1, len(loaded) + 2))
            found[place] = next(name for name in several if name not in found)
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]}: is the name of several models; give each its own")
    return [str(name) for name in found]


def _folder_name(path: str) -> str:
    """The last part of a path or hub id; a checkpoint's is told by its run's."""
    folder = Path(path) if not Path(path).is_dir() else Path(path).resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("checkpoint-") else folder.name


def _family(loaded: Sequence[Loaded], ids: Sequence[str]) -> Family:
    adapters = Counter(_content(each) for each in loaded if _kind(each) == "adapter")
    parents = {_content(each): name for each, name in zip(loaded, ids, strict=True) if _kind(each) == "base"}
    members = []
    for each, name in zip(loaded, ids, strict=True):
        kind = _kind(each)
        # A packed adapter takes in its base's weights, which can be in one pack only.
        generator = Generator(each, pack=adapters[_content(each)] == 1)
        parent = parents.get(_content(each)) if kind == "adapter" else None
        members.append(Member(name, each, generator, kind, parent, _experts(generator)))
    return Family({member.id: member for member in members})


def _experts(generator: Generator) -> int:
    """How many experts each routed layer has; 0 where they differ, or where there are none."""
    counts = {
        layer.adapter_configs[name].num_experts
        for _, layer in routed_text_layers(generator.base)
        for name in layer.active_adapters
    }
    return counts.pop() if len(counts) == 1 else 0
