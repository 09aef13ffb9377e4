"""Random models that stand in for those peft's tests load from the hub, in a hub cache of our own.

In: the ids that a suite names. Out: a cache folder in the hub's layout, from which ``from_pretrained(id)`` reads them
with HF_HUB_OFFLINE=1. Same architecture, own sizes and seed: the tests compare a model with itself, never with known
numbers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_COMMON = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
_LLAMA_LIKE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_GPT_LIKE = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}

# id in peft's tests -> (transformers model type, its sizes)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (
        "opt",
        {
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.2,
        },
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("gpt2", _GPT_LIKE),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("gptj", {**_GPT_LIKE, "rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("llama", _LLAMA_LIKE),
    "peft-internal-testing/tiny-dummy-qwen2": ("qwen2", _LLAMA_LIKE),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("gemma3_text", {**_LLAMA_LIKE, "head_dim": 4}),
}

# id -> revision: a checkpoint of which the tests read the adapter's configuration only. It is a LoRA's, there as here.
ADAPTERS: dict[str, str] = {"peft-internal-testing/tiny-opt-lora-revision": "test"}


def write_stand_ins(cache: Path, ids: Iterable[str]) -> None:
    """Fill `cache` with a stand-in for each id, deleting what was there."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    shutil.rmtree(cache, ignore_errors=True)
    for name in ids:
        if name in ADAPTERS:
            _write_adapter(_snapshot(cache, name, ADAPTERS[name]))
        else:
            _write_model(_snapshot(cache, name, "main"), *MODELS[name])


def _snapshot(cache: Path, name: str, revision: str) -> Path:
    """Make the folder of a commit and point the revision at it."""
    commit = hashlib.sha1(name.encode()).hexdigest()
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def _write_model(folder: Path, model_type: str, sizes: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**_COMMON, **sizes})).save_pretrained(folder)


def _write_adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
