"""The feed-forward linears of known model types: what is adapted when `target_modules` is left out.

The paper adapts only the FFN. A list matches the ends of module names; a string is a regular expression for the whole
name, used where a plain ending would also match other linears (attention outputs, a vision tower).
"""

import re

GATED_TYPES = (
    "llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "qwen3_5_text", "gemma", "gemma2", "gemma3_text",
    "olmo", "olmo2", "olmo3", "granite", "cohere", "cohere2", "smollm3", "stablelm", "helium", "exaone4", "seed_oss",
    "internlm3", "ernie4_5", "hunyuan_v1_dense",
)  # fmt: skip
"""Language models built as Llama is: their FFN has a gate, and attention and FFN have Llama's names."""

_GATED = ["gate_proj", "up_proj", "down_proj"]
_LANGUAGE_MODEL_GATED = r".*language_model.*\.(gate_proj|up_proj|down_proj)"
_BERT = r".*layer\.\d+\.(intermediate|output)\.dense"

FFN_TARGETS: dict[str, list[str] | str] = {
    **dict.fromkeys(GATED_TYPES, _GATED),
    **dict.fromkeys(("phi3", "glm", "glm4"), ["gate_up_proj", "down_proj"]),
    **dict.fromkeys(("arcee", "nemotron", "apertus"), ["up_proj", "down_proj"]),
    "mpt": ["ffn.up_proj", "ffn.down_proj"],
    "starcoder2": ["mlp.c_fc", "mlp.c_proj"],
    "phi": ["fc1", "fc2"],
    "opt": ["fc1", "fc2"],
    "bart": ["fc1", "fc2"],
    "gpt2": ["mlp.c_fc", "mlp.c_proj"],
    "gpt_neo": ["mlp.c_fc", "mlp.c_proj"],
    "gpt_bigcode": ["mlp.c_fc", "mlp.c_proj"],
    "gptj": ["fc_in", "fc_out"],
    "gpt_neox": ["dense_h_to_4h", "dense_4h_to_h"],
    "bloom": ["dense_h_to_4h", "dense_4h_to_h"],
    "falcon": ["dense_h_to_4h", "dense_4h_to_h"],
    "t5": ["wi", "wi_0", "wi_1", "wo"],
    "mt5": ["wi", "wi_0", "wi_1", "wo"],
    "bert": _BERT,
    "roberta": _BERT,
    "deberta-v2": _BERT,
    "llava": _LANGUAGE_MODEL_GATED,
    "llava_next": _LANGUAGE_MODEL_GATED,
}


def inside(text_type: str) -> str | None:
    """The feed-forward linears of a language model that is part of a larger one, as ``….language_model.…``.

    Args:
        text_type: model type of the language model.

    Returns:
        A regular expression for whole names; None where they are not known.
    """
    targets = FFN_TARGETS.get(text_type)
    if not isinstance(targets, list):
        return None
    return rf".*language_model.*\.({'|'.join(map(re.escape, targets))})"
