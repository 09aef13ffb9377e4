"""Weights -> a folder's safetensors files, and a look at what has been written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from llava_teamlora.errors import UserError
from llava_teamlora.models.pretrained import read_weights


def write_weights(weights: Mapping[str, Tensor], folder: Path, max_shard_size: str) -> None:
    """Write ``model.safetensors``, or shards of at most that size with an index, and read them again.

    Args:
        weights: name -> tensor; no two share memory.
        folder: there already.
        max_shard_size: such as ``5GB``.

    Raises:
        UserError: what was written is not what was to be.
    """
    whole = {name: weight.detach().contiguous() for name, weight in weights.items()}
    try:
        save_torch_state_dict(whole, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
    except ValueError as error:
        raise UserError(f"--max_shard_size {max_shard_size!r}: {error}") from error
    verify(weights, sorted(folder.glob("model*.safetensors")))


def verify(weights: Mapping[str, Tensor], files: list[Path]) -> None:
    """Compare files with what they were to hold: every name, dtype, shape and byte.

    Raises:
        UserError: a difference; the first is named.
    """
    missing = set(weights)
    for path in files:
        for name, written in read_weights(str(path)).items():
            if name not in missing or not _same(written, weights[name]):
                raise UserError(f"{path}: {name} is not what was to be written; is the disk sound?")
            missing.remove(name)
    if missing:
        raise UserError(f"{files[0].parent}: {sorted(missing)[0]} has not been written; is the disk sound?")


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for weight in (one, other))
    return torch.equal(first, second)
