"""Folders and hub ids -> fast tokenizers that know what a picture is.

Vicuna's and LLaVA's own folders hold SentencePiece's ``tokenizer.model`` alone, which transformers reads with the
package sentencepiece.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers.models import BPE
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError
from llava_teamlora.models.pretrained import gathered, load

_SENTENCEPIECE = "tokenizer.model"


def load_tokenizer(name: str, config: Any = None) -> Any:
    """The tokenizer of a folder or hub id.

    Args:
        name: of the model.
        config: of its language model; None reads the folder's. An original LLaVA's own would mislead: for its
            ``model_type`` transformers takes a tokenizer that splits words otherwise than Llama's.

    Raises:
        UserError: none there, or a package is missing to read it.
    """
    folder = Path(name)
    bare = (folder / _SENTENCEPIECE).is_file() and not (folder / "tokenizer.json").is_file()
    if bare and not all(map(find_spec, ("sentencepiece", "google.protobuf"))):
        raise UserError(f"{folder / _SENTENCEPIECE}: is read by sentencepiece: pip install sentencepiece protobuf")
    tokenizer = load(AutoTokenizer, name, **({} if config is None else {"config": config}))
    if (scores := _sentencepiece_scores(name)) is not None:
        _merge_by_score(tokenizer, scores)
    return tokenizer


def _sentencepiece_scores(name: str) -> dict[str, float] | None:
    """Each token's score, where transformers has made the tokenizer of SentencePiece's file; None elsewhere."""
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if cached_file(name, "tokenizer.json", **quietly) is not None:
        return None
    path = cached_file(name, _SENTENCEPIECE, **quietly)
    if path is None:
        return None
    from sentencepiece import SentencePieceProcessor  # pyright: ignore[reportMissingImports]

    pieces = SentencePieceProcessor(model_file=path)
    return {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}


def _merge_by_score(tokenizer: Any, scores: dict[str, float]) -> None:
    """Let a BPE merge what scores best first, as SentencePiece does and so LLaVA's slow tokenizers do.

    transformers 5 orders merges by the ids of their results. Llama's runs of spaces have low ids and the lowest scores:
    indented and doubly spaced text would get other tokens than the model was trained on.
    """
    if not isinstance(tokenizer.backend_tokenizer.model, BPE):
        return
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = sorted((tuple(pair) for pair in model["merges"]), key=lambda pair: -scores["".join(pair)])
    options = {name: model[name] for name in ("unk_token", "fuse_unk", "byte_fallback")}
    tokenizer.backend_tokenizer.model = BPE(model["vocab"], merges, **options)


def make_paddable(tokenizer: Any) -> None:
    """Give a tokenizer without a padding token one that it has."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token


def add_image_token(tokenizer: Any, llm: Any, before_it: Sequence[str]) -> None:
    """Give ``<image>`` an id, behind those of other new tokens.

    New vocabulary rows are the mean of the old ones. They must be the same each time the base is put together, because
    a run folder does not keep them and the output's enter every softmax.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [*before_it, IMAGE_TOKEN]})
    before = llm.config.get_text_config().vocab_size
    if len(tokenizer) <= before:
        return
    llm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    tables = [llm.get_input_embeddings().weight, llm.get_output_embeddings().weight]
    with torch.no_grad(), gathered(tables):
        for table in tables:
            table[before:] = table[:before].float().mean(0).to(table.dtype)
