"""A LLaVA's tokenizer -> files for LLaVA's own folders: without ``<image>``, which LLaVA never tokenizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError
from llava_teamlora.models.original import folder_of, seen_through
from llava_teamlora.models.spec import BaseSpec

SENTENCEPIECE = "tokenizer.model"


def write_tokenizer(tokenizer: Any, folder: Path, sources: list[Path]) -> bool:
    """Write ``tokenizer.json``, its config and, where a source has it, ``tokenizer.model``.

    Args:
        tokenizer: with ``<image>`` behind its vocabulary.
        folder: there already.
        sources: where ``tokenizer.model`` may lie.

    Returns:
        Whether there is a ``tokenizer.model``; LLaVA's own code reads nothing else.

    Raises:
        UserError: tokens behind ``<image>`` that would be lost.
    """
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    behind = {token for token, number in tokenizer.get_vocab().items() if number > image} - {tokenizer.pad_token}
    if behind:
        raise UserError(
            f"its tokenizer has {sorted(behind)[0]!r} behind {IMAGE_TOKEN}, where an original LLaVA's vocabulary ends"
        )
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < image]
    backend.update(padding=None, truncation=None)
    (folder / "tokenizer.json").write_text(json.dumps(backend, ensure_ascii=False), encoding="utf-8")
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "unk_token": tokenizer.unk_token,
        "pad_token": tokenizer.unk_token or tokenizer.eos_token,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": bool(tokenizer.init_kwargs.get("legacy", False)),
        "model_max_length": tokenizer.model_max_length,
        "padding_side": "right",
    }
    text = json.dumps({name: value for name, value in config.items() if value is not None}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    return copy_sentencepiece(sources, folder)


def copy_sentencepiece(sources: list[Path], folder: Path) -> bool:
    """Copy the first ``tokenizer.model`` there is, which transformers itself leaves behind; whether there is one."""
    source = next((path for path in (place / SENTENCEPIECE for place in sources) if path.is_file()), None)
    if source is not None:
        shutil.copyfile(source, folder / SENTENCEPIECE)
    return source is not None


def tokenizer_places(spec: BaseSpec) -> list[Path]:
    """Folders where a base's ``tokenizer.model`` may lie: its own, and what it is put together from."""
    return [folder_of(name) for name in (spec.model, seen_through(spec)[0].model)]
