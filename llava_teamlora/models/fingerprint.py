"""Content of a base -> a short name for it, so that an adapter is never put on another base than its own.

In: a base's folders. Out: SHA-256 digests that follow content and not place.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import BaseSpec


def base_fingerprint(spec: BaseSpec) -> str:
    """Fingerprint of language model (or finished LLaVA) and tower. The projector is in the run folder itself.

    Raises:
        UserError: see :func:`fingerprint`.
    """
    names = [spec.model, *([spec.vision_tower] if spec.vision_tower else [])]
    return hashlib.sha256("".join(fingerprint(name) for name in names).encode()).hexdigest()


def fingerprint(name: str) -> str:
    """Names a base by its content: its config and, for every weight file, size, first and last MiB.

    Reading a few MiB instead of all keeps it instant for 7B models. A hub id is fingerprinted by its cached
    snapshot.

    Raises:
        UserError: ``name`` is neither a folder nor a cached hub model.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError) as error:
            raise UserError(f"{name}: neither a folder here nor a model in the hub's cache") from error
    digest = hashlib.sha256()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: is missing or broken ({error}); is this a model?") from error
    digest.update(json.dumps(config, sort_keys=True).encode())
    # What is loaded: safetensors where there are any.
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
