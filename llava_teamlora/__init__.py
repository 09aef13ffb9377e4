"""TeamLoRA for peft and transformers, and a LLaVA-1.5 trainer that carries it.

Importing this package registers its methods with peft (so that ``PeftModel.from_pretrained`` knows them) as soon
as peft and torch are there to be imported; nothing heavier is loaded until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.tuners.teamlora import TeamLoraConfig, TeamLoraModel

__version__ = "0.1.0"
__all__ = ["TeamLoraConfig", "TeamLoraModel", "__version__"]

_EXPORTS = {
    "TeamLoraConfig": "llava_teamlora.tuners.teamlora",
    "TeamLoraModel": "llava_teamlora.tuners.teamlora",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
