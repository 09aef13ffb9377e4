"""Where a base is put, and in what form: device, dtype, attention, bits.

In: what the user said of them, or nothing. Out: the base there, one that is in memory already if that is wished.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, load_base
from llava_teamlora.models.sharing import BasesInMemory
from llava_teamlora.models.spec import BaseSpec


@dataclass(frozen=True)
class Place:
    """In what form a base is loaded.

    Attributes:
        dtype: see ``load_base``.
        attention: see ``load_base``.
        device: see ``load_base``.
        bits: of the language model; None is the spec's own.
        bases: those in memory, to be used again; None shares nothing.
    """

    dtype: torch.dtype
    attention: str
    device: str
    bits: int | None = None
    bases: BasesInMemory | None = None

    def load(self, spec: BaseSpec, fingerprint: str | None = None) -> tuple[BaseSpec, Base]:
        """The base, and what it is called with the bits it has.

        Args:
            spec: which base.
            fingerprint: of its content, where it is known: by it a base in memory is found.

        Raises:
            UserError: see ``load_base``.
        """
        spec = spec if self.bits is None else replace(spec, bits=self.bits)
        if self.bases is None:
            return spec, load_base(spec, self.dtype, self.attention, self.device)
        return spec, self.bases.load(spec, self.dtype, self.attention, self.device, fingerprint)


def default_device() -> str:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"


def parse_dtype(name: str | None, device: str) -> torch.dtype:
    """``--dtype``, or what suits the device.

    Raises:
        UserError: an unknown name.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return torch.float32 if device == "cpu" else torch.bfloat16
    if name not in known:
        raise UserError(f"--dtype {name!r} is not one of {', '.join(known)}")
    return known[name]
