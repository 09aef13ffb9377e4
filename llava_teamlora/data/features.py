"""What the vision tower makes of each picture, kept on disk (``--vision_cache DIR``).

In: picture files, and features ``[P, D]`` to keep. Out: the features again. An entry is named by the content of the
picture and lies in a folder named by everything else that its features follow from, so that nothing stale is ever
found; it appears whole or not at all, so that many processes may write at once; and it is checked when it is read.

    DIR/<tower, layer, preprocessing, dtype>/about.json
    DIR/<tower, layer, preprocessing, dtype>/<aa>/<rest of the picture's SHA-256>.safetensors
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

FEATURES_FORMAT = 1
_NAME = "features"


@dataclass(frozen=True)
class FeatureStore:
    """Features of pictures under one tower and one preprocessing.

    Attributes:
        folder: where the entries lie.
        shape: of one picture's features.
        dtype: of the features.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @cached_property
    def entry_bytes(self) -> int:
        """Size of every entry."""
        return len(_content(torch.zeros(self.shape, dtype=self.dtype)))

    def entry(self, picture: Path) -> Path:
        """The file that keeps a picture's features, whether it is there or not.

        Raises:
            UserError: the picture cannot be read.
        """
        try:
            digest = hashlib.sha256(picture.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{picture}: no readable picture ({error.strerror})") from error
        return self.folder / digest[:2] / f"{digest[2:]}.safetensors"

    def holds(self, entry: Path) -> bool:
        """Whether an entry is there and not cut short."""
        return entry.is_file() and entry.stat().st_size == self.entry_bytes

    def read(self, picture: Path) -> torch.Tensor:
        """Features of a picture, of ``shape`` and ``dtype``.

        Raises:
            UserError: there are none, or they are damaged; says what to do.
        """
        entry = self.entry(picture)
        if not entry.is_file():
            raise UserError(f"{picture}: has changed since its features were computed; start the same command again")
        try:
            with safe_open(entry, framework="pt") as file:
                features = file.get_tensor(_NAME)
                expected = (file.metadata() or {}).get("crc32")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{entry}: is damaged ({error}); delete it and start the same command again") from error
        whole = tuple(features.shape) == self.shape and features.dtype == self.dtype
        if not whole or expected != _checksum(features):
            raise UserError(
                f"{entry}: is damaged (wrong shape or checksum); delete it and start the same command again"
            )
        return features

    def write(self, entry: Path, features: torch.Tensor) -> None:
        """Keep one picture's features, on the CPU.

        Raises:
            ValueError: other features than the store's.
            UserError: they cannot be written: no rights, a full disk.
        """
        if tuple(features.shape) != self.shape or features.dtype != self.dtype:
            raise ValueError(f"{tuple(features.shape)} {features.dtype} features for {self.shape} {self.dtype}")
        write_atomically(entry, _content(features))


def open_store(root: Path, about: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> FeatureStore:
    """The store of one tower and preprocessing, its folder made if need be.

    Args:
        root: ``--vision_cache``.
        about: everything that features follow from besides the picture; plain types.
        shape: of one picture's features.
        dtype: of the features.

    Raises:
        UserError: the folder cannot be made.
    """
    whole = {"format": FEATURES_FORMAT, **about, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
    text = json.dumps(whole, sort_keys=True, indent=1, default=str)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not (folder / "about.json").is_file():
        write_atomically(folder / "about.json", text + "\n")
    return FeatureStore(folder, shape, dtype)


def _content(features: torch.Tensor) -> bytes:
    return save({_NAME: features.contiguous()}, metadata={"crc32": _checksum(features)})


def _checksum(features: torch.Tensor) -> str:
    return f"{zlib.crc32(features.contiguous().view(torch.uint8).numpy().data):08x}"
