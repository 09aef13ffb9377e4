"""The feed-forward linears of known model types: what is adapted when `target_modules` is left out.

The paper adapts only the FFN. A list matches the ends of module names; a string is a regular expression for the whole
name, used where a plain ending would also match other linears (attention outputs, a vision tower).
"""

_GATED = ["gate_proj", "up_proj", "down_proj"]
_LANGUAGE_MODEL_GATED = r".*language_model.*\.(gate_proj|up_proj|down_proj)"
_BERT = r".*layer\.\d+\.(intermediate|output)\.dense"

FFN_TARGETS: dict[str, list[str] | str] = {
    "llama": _GATED,
    "mistral": _GATED,
    "gemma": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "olmo2": _GATED,
    "phi3": ["gate_up_proj", "down_proj"],
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
