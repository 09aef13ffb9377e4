"""A field of an arguments dataclass, which is a flag of the command line."""

from __future__ import annotations

import dataclasses
from typing import Any


def flag(text: str, default: Any = dataclasses.MISSING) -> Any:
    """A field with a help text.

    Args:
        text: what ``--help`` says of it.
        default: its value when it is not said; without one it must be said.
    """
    return dataclasses.field(default=default, metadata={"help": text})
