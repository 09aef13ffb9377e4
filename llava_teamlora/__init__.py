"""TeamLoRA for peft and transformers, and a LLaVA-1.5 trainer that carries it.

Importing this package makes its methods known to peft, so that ``PeftModel.from_pretrained`` and transformers'
``load_adapter`` read their checkpoints. It imports nothing heavy itself: if peft is not loaded yet, the methods are
registered at the moment it is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.tuners.hydralora import HydraLoraConfig, HydraLoraModel
    from llava_teamlora.tuners.moelora import MoeLoraConfig, MoeLoraModel
    from llava_teamlora.tuners.moslora import MosLoraConfig, MosLoraModel
    from llava_teamlora.tuners.teamlora import TeamLoraConfig, TeamLoraModel

__version__ = "0.1.0"
__all__ = [
    "HydraLoraConfig",
    "HydraLoraModel",
    "MoeLoraConfig",
    "MoeLoraModel",
    "MosLoraConfig",
    "MosLoraModel",
    "TeamLoraConfig",
    "TeamLoraModel",
    "__version__",
]

_EXPORTS = {
    f"{name}{kind}": f"llava_teamlora.tuners.{name.lower()}"
    for name in ("HydraLora", "MoeLora", "MosLora", "TeamLora")
    for kind in ("Config", "Model")
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _AfterPeft(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports ``llava_teamlora.tuners``, which registers the methods, right after peft's own import.

    Being asked for peft's place is not an import (libraries ask to learn whether peft is installed), so this stays on
    the path until peft has really been loaded.
    """

    def __init__(self) -> None:
        self.asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find peft by the other finders and put this loader in front of its own."""
        if fullname != "peft" or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            self.inner, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As peft's own loader does."""
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load peft, then register."""
        module.__loader__ = self.inner
        self.inner.exec_module(module)
        sys.meta_path.remove(self)
        importlib.import_module("llava_teamlora.tuners")


if "peft" in sys.modules:
    importlib.import_module("llava_teamlora.tuners")
else:
    sys.meta_path.insert(0, _AfterPeft())
