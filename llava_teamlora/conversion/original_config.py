"""A LLaVA as transformers has it -> the ``config.json`` of LLaVA's own folders.

Out: Llama's fields under the names that transformers 4 knows, and LLaVA's. What LLaVA's own code cannot compute is
refused in words.
"""

from __future__ import annotations

from typing import Any

from llava_teamlora.constants import IM_PATCH
from llava_teamlora.errors import UserError
from llava_teamlora.models.projector import projector_type

_SAME = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "hidden_act", "initializer_range", "attention_bias",
    "tie_word_embeddings", "bos_token_id", "eos_token_id",
)  # fmt: skip


def original_config(name: str, config: Any, tokenizer: Any, tower: str, **marks: Any) -> dict[str, Any]:
    """The config of a folder that LLaVA's own code loads.

    Args:
        name: whose it is, for messages.
        config: transformers' ``LlavaConfig``.
        tokenizer: with ``<image>``.
        tower: what LLaVA is to load as its vision tower: a folder or hub id.
        marks: further fields, which win.

    Raises:
        UserError: a language model, tower, projector or features that LLaVA does not know.
    """
    text, vision = config.text_config, config.vision_config
    _refuse_unknown(name, config)
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        **{field: getattr(text, field) for field in _SAME},
        **_rope(name, text),
        "pad_token_id": 0 if tokenizer.unk_token_id is None else tokenizer.unk_token_id,
        "vocab_size": config.image_token_id,
        "pretraining_tp": 1,
        "torch_dtype": str(config.dtype or "float32").removeprefix("torch."),
        "use_cache": True,
        "use_mm_proj": True,
        "mm_vision_tower": tower,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": projector_type(config),
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": getattr(config, "mm_use_im_start_end", False),
        "mm_use_im_patch_token": IM_PATCH in tokenizer.get_vocab(),
        "image_aspect_ratio": getattr(config, "image_aspect_ratio", "pad"),
        "tokenizer_model_max_length": tokenizer.model_max_length,
        "tokenizer_padding_side": "right",
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        **marks,
    }


def _refuse_unknown(name: str, config: Any) -> None:
    text, vision = config.text_config, config.vision_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    problems = {
        f"a {text.model_type!r} language model": text.model_type != "llama",
        f"heads {head_dim} wide": head_dim * text.num_attention_heads != text.hidden_size,
        "biases in its MLPs": getattr(text, "mlp_bias", False),
        f"a {vision.model_type!r} tower": vision.model_type != "clip_vision_model",
        f"features of layers {config.vision_feature_layer}": not isinstance(config.vision_feature_layer, int),
        "a projector without biases": not config.multimodal_projector_bias,
        f"{config.projector_hidden_act!r} in its projector": config.projector_hidden_act != "gelu",
    }
    found = next((what for what, there in problems.items() if there), None)
    if found is not None:
        raise UserError(
            f"{name}: has {found}; LLaVA's own code knows Llama behind a CLIP tower and a GELU projector, so no "
            "original folder can hold this model"
        )


def _rope(name: str, text: Any) -> dict[str, Any]:
    """Rotary embeddings in transformers 4's words."""
    rope = dict(text.rope_parameters)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "dynamic"):
        raise UserError(f"{name}: scales its positions by {kind!r}, which LLaVA's own code does not know")
    scaling = None if kind == "default" else {"type": kind, "factor": rope["factor"]}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
