"""Models without weights: the modules, shapes and dtypes that a folder's config names, on the meta device.

In: what is loaded otherwise. Out: the same, taking no memory and reading no weights, so that a 7B model is there in a
second. Inside :func:`outlining`, ``load_base`` and the adapters' own code run as they always do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig
from transformers.integrations import deepspeed as theirs


@contextmanager
def outlining() -> Iterator[None]:
    """Make models on the meta device, whole even where ZeRO-3 would split them; weights put into them are dropped."""
    zero3 = theirs._hf_deepspeed_config_weak_ref
    theirs.unset_hf_deepspeed_config()
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter", category=UserWarning)
            yield
    finally:
        theirs._hf_deepspeed_config_weak_ref = zero3


def is_outlining() -> bool:
    """Whether models are made without weights."""
    return torch.get_default_device().type == "meta"


def outline(kind: Any, name: str, **kwargs: Any) -> Any:
    """What ``kind.from_pretrained(name)`` would be, from the config alone.

    Args:
        kind: class of the model, or an auto class.
        name: folder or hub id.
        kwargs: for ``from_pretrained``; ``dtype`` and ``attn_implementation`` count, the rest is of weights.
    """
    kept = {key: kwargs[key] for key in ("dtype", "attn_implementation") if key in kwargs}
    if not hasattr(kind, "config_class"):
        return kind.from_config(kwargs.get("config") or AutoConfig.from_pretrained(name), **kept)
    return kind._from_config(kind.config_class.from_pretrained(name), **kept)
