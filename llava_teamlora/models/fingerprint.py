"""Content of a base -> a short name for it, so that an adapter is never put on another base than its own.

In: a base's folders. Out: SHA-256 digests that follow content, not place, file format or sharding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from llava_teamlora.errors import UserError
from llava_teamlora.models.original import folder_of, original_parts
from llava_teamlora.models.pretrained import read_weights
from llava_teamlora.models.spec import BaseSpec

_BLOCK = 4096
_BLOCKS = 4

# What a folder's weights lie in; the first row of which a file is there counts, as when they are loaded.
_KINDS = (
    ("model*.safetensors",),
    ("pytorch_model*.bin",),
    ("adapter_model.safetensors", "non_lora_trainables.bin"),
    ("adapter_model.bin", "non_lora_trainables.bin"),
    ("mm_projector.bin",),
    ("*.safetensors",),
)


def base_fingerprint(spec: BaseSpec) -> str:
    """Fingerprint of all that a base is put together from: language model or LLaVA, tower, what an original LoRA is on.

    A projector given beside them is not counted: the run folder holds it.

    Raises:
        UserError: see :func:`fingerprint`.
    """
    return hashlib.sha256("".join(fingerprint(name) for name in original_parts(spec)).encode()).hexdigest()


def fingerprint(name: str) -> str:
    """Names a folder by its config and, for each of its weights, name, dtype, shape and four blocks of 4 KiB.

    What it proves: equal fingerprints mean the same config and the same names, dtypes and shapes, and that every
    weight is equal at its beginning, at its end and at two places between (a weight of up to 16 KiB as a whole). Any
    training of a weight changes nearly all of its numbers, so another model, another checkpoint of it, another merge
    and another dtype all differ. It does not prove that no other byte was altered: it reads a few MiB of a 7B model,
    not 13 GB, and takes well under a second. A hub id is fingerprinted by its cached snapshot.

    Raises:
        UserError: ``name`` is neither a folder nor a cached hub model, or its files cannot be read.
    """
    folder = folder_of(name)
    digest = hashlib.sha256()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: is missing or broken ({error}); is this a model?") from error
    digest.update(json.dumps(config, sort_keys=True).encode())
    for line in sorted(_lines(folder)):
        digest.update(line.encode())
    return digest.hexdigest()


def _lines(folder: Path) -> Iterator[str]:
    """One line a weight; sorted, they do not tell which file it lies in."""
    for path in _weight_files(folder):
        for name, weight in read_weights(str(path)).items():
            content = hashlib.sha256()
            for block in _blocks(weight):
                content.update(block.numpy().tobytes())
            yield f"{name} {weight.dtype} {tuple(weight.shape)} {content.hexdigest()}\n"


def _weight_files(folder: Path) -> list[Path]:
    for patterns in _KINDS:
        found = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if found:
            return found
    raise UserError(f"{folder}: holds no weights (model*.safetensors, pytorch_model*.bin, …)")


def _blocks(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    data = weight.detach().reshape(-1).view(torch.uint8)
    if data.numel() <= _BLOCKS * _BLOCK:
        yield data
        return
    last = data.numel() - _BLOCK
    for index in range(_BLOCKS):
        start = last * index // (_BLOCKS - 1)
        yield data[start : start + _BLOCK]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
