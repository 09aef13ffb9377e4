"""A base's name -> the model to adapt, with its tokenizer and image processor.

In: :class:`BaseSpec`. Out: :class:`Base`. Three kinds of base are known: a finished LLaVA in transformers' layout; a
causal language model with a vision tower, which are put together with a fresh (or given) projector as in LLaVA-1.5;
and a causal language model alone, for text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlavaConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.import_utils import is_flash_attn_2_available

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.dataset import VisionFormat
from llava_teamlora.data.segments import Template
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError
from llava_teamlora.models.llava import LlavaForConditionalGeneration
from llava_teamlora.models.original import Original, find_original, is_finished, seen_through
from llava_teamlora.models.original_weights import BESIDE, put_in
from llava_teamlora.models.pretrained import load_config, load_whole
from llava_teamlora.models.projector import PROJECTOR_TYPE, build_projector, load_projector, projector_type
from llava_teamlora.models.quantise import mark_quantised, quantised, steady
from llava_teamlora.models.spec import BaseSpec
from llava_teamlora.models.tokenizer import add_image_token, load_tokenizer, make_paddable
from llava_teamlora.models.vision import (
    SELECT_LAYER,
    check_layer,
    load_image_processor,
    load_tower,
    select_strategy,
    tokens_per_image,
)

logger = logging.get_logger(__name__)

_ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
_SCALED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config fields of language models that do more to their logits than a LLaVA's head does."""


@dataclass(frozen=True)
class Base:
    """A loaded base.

    Attributes:
        model: the LLaVA or the language model, weights frozen or not as loaded.
        tokenizer: fast tokenizer; that of a LLaVA knows ``<image>``.
        image_processor: the vision tower's; None for a language model alone.
        image_token_id: id of ``<image>``; None for a language model alone.
        tokens_per_image: features a picture becomes; 0 for a language model alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any = None
    image_token_id: int | None = None
    tokens_per_image: int = 0

    def vision_format(self, aspect_ratio: str) -> VisionFormat | None:
        """How pictures become pixels and tokens, made square by ``pad`` or ``square``; None if the base sees none."""
        if self.image_token_id is None:
            return None
        return VisionFormat(self.image_processor, self.image_token_id, self.tokens_per_image, aspect_ratio)

    def template(self, version: str) -> Template:
        """The conversation template of that name, fitted to the tokenizer.

        Pictures stand in it between ``<im_start>`` and ``<im_end>`` where the base knows them.

        Raises:
            UserError: no such template, or none that the tokenizer has what it takes for.
        """
        marks = getattr(self.model.config, "mm_use_im_start_end", False)
        return get_template(version, marks).for_tokenizer(self.tokenizer)


def resolve_attention(choice: str, dtype: torch.dtype, config: Any = None) -> str:
    """``auto`` -> FlashAttention-2 on CUDA in half precision where it is installed, else sdpa, where a model has these.

    Args:
        choice: ``auto``, ``sdpa``, ``eager`` or ``flash_attention_2``.
        dtype: the model's.
        config: the model's; None is one that has all of them.

    Raises:
        UserError: an unknown choice, or FlashAttention-2 asked for where it cannot run.
    """
    if choice not in _ATTENTION:
        raise UserError(f"--attn_implementation {choice!r} is not one of {', '.join(_ATTENTION)}")
    can_flash = torch.cuda.is_available() and dtype in (torch.float16, torch.bfloat16) and is_flash_attn_2_available()
    if choice == "auto":
        known: Any = AutoModelForCausalLM._model_mapping  # pyright: ignore[reportAttributeAccessIssue]
        kind = known.get(type(config.get_text_config()), None) if config is not None else None
        has_sdpa, has_flash = (getattr(kind, f"_supports_{name}", True) for name in ("sdpa", "flash_attn"))
        found = "flash_attention_2" if can_flash and has_flash else "sdpa" if has_sdpa else "eager"
        logger.info("attention: %s", found)
        return found
    if choice == "flash_attention_2" and not can_flash:
        raise UserError(
            "--attn_implementation flash_attention_2 needs a CUDA device, --bf16 True or --fp16 True, and the "
            "flash-attn package (pip install 'llava-teamlora[flash]'); use sdpa otherwise"
        )
    return choice


def takes_pictures(spec: BaseSpec) -> bool:
    """Whether a base sees; reads its config alone.

    Raises:
        UserError: nothing there.
    """
    spec, config = seen_through(spec)
    return spec.vision_tower is not None or isinstance(config, LlavaConfig)


def load_base(
    spec: BaseSpec, dtype: torch.dtype = torch.float32, attention: str = "auto", device: str | None = None
) -> Base:
    """Load or put together what ``spec`` names.

    Args:
        spec: which base.
        dtype: of all weights; of those that are not quantised, and of what is computed, with fewer bits.
        attention: see :func:`resolve_attention`.
        device: where a quantised base is put, and stays; None is the CPU. Others are loaded to the CPU.

    Raises:
        UserError: nothing there, the wrong kind of model, or weights that do not fit.
    """
    packed = quantised(spec.bits, spec.quant_type, spec.double_quant, dtype, device or "cpu")
    original = find_original(spec.model)
    config = None if original is not None else load_config(spec.model)
    kwargs = {"dtype": dtype, "attn_implementation": resolve_attention(attention, dtype, config)}
    if original is not None:
        base = _load_original(original, spec, kwargs, packed, device)
    elif spec.model_base is not None:
        raise UserError(f"{spec.model}: is no LoRA or projector of LLaVA's, which lie upon a base; drop --model_base")
    elif isinstance(config, LlavaConfig):
        base = _load_finished(spec, config, {**kwargs, **packed})
    elif spec.vision_tower is None:
        base = _load_language_model(spec, config, {**kwargs, **packed})
    else:
        base = _compose(spec, config, kwargs, packed)
    if spec.projector_weights is not None:
        assert isinstance(base.model, LlavaForConditionalGeneration)  # others have been refused
        llava = base.model
        load_projector(llava.model.multi_modal_projector, projector_type(llava.config), spec.projector_weights)
    if packed:
        steady(base.model)
    for config in (base.model.generation_config, base.model.config, base.model.config.get_text_config()):
        config.pad_token_id = base.tokenizer.pad_token_id  # pyright: ignore[reportOptionalMemberAccess]
    return base


def _load_original(
    original: Original, spec: BaseSpec, kwargs: dict[str, Any], packed: dict[str, Any], device: str | None
) -> Base:
    """What an original LLaVA is put together from, with the folder's own weights put in."""
    under = original.under(spec)
    if original.kind == "full":
        config = original.language_config()
        base = _compose(under, config, kwargs, packed, {"config": config, "may_be_left": BESIDE})
    else:
        base = load_base(under, kwargs["dtype"], kwargs["attn_implementation"], device)
    put_in(original, base.model, on_llava=is_finished(under.model))
    original.leave_marks(base.model.config, base.tokenizer)
    return base


def _load_finished(spec: BaseSpec, config: LlavaConfig, kwargs: dict[str, Any]) -> Base:
    """A LLaVA in transformers' layout."""
    if spec.vision_tower is not None:
        raise UserError(f"{spec.model}: is a finished LLaVA with its own vision tower; drop --vision_tower")
    _refuse_other_vision(spec, config)
    check_layer(spec.model, config.vision_config, config.vision_feature_layer)
    model = load_whole(LlavaForConditionalGeneration, spec.model, **kwargs)
    return _seeing(model, load_tokenizer(spec.model), spec.model)


def _refuse_other_vision(spec: BaseSpec, config: LlavaConfig) -> None:
    """A finished LLaVA was trained on certain features; asking for others is refused, not ignored."""
    if spec.select_layer is not None and spec.select_layer != config.vision_feature_layer:
        raise UserError(
            f"{spec.model}: was trained on the tower's layer {config.vision_feature_layer}; drop "
            f"--mm_vision_select_layer {spec.select_layer}"
        )
    feature = spec.select_feature
    strategy = config.vision_feature_select_strategy
    if feature is not None and select_strategy(spec.model, config.vision_config, feature) != strategy:
        raise UserError(f"{spec.model}: was trained on other features; drop --mm_vision_select_feature {feature}")
    if spec.projector_type not in (None, projector_type(config)):
        raise UserError(
            f"{spec.model}: has a projector of its own, {projector_type(config)}; drop --mm_projector_type "
            f"{spec.projector_type}"
        )


def _load_language_model(spec: BaseSpec, config: Any, kwargs: dict[str, Any]) -> Base:
    """A causal language model alone."""
    said = {
        "--mm_vision_select_layer": spec.select_layer,
        "--mm_vision_select_feature": spec.select_feature,
        "--pretrain_mm_mlp_adapter": spec.projector_weights,
        "--mm_projector_type": spec.projector_type,
    }
    for flag, value in said.items():
        if value is not None:
            raise UserError(
                f"{spec.model}: is a {config.model_type!r} model without a vision tower, so {flag} {value} has no "
                "effect; add --vision_tower (e.g. openai/clip-vit-large-patch14-336) or drop it"
            )
    model = _load_causal(spec.model, config, kwargs)
    tokenizer = load_tokenizer(spec.model)
    make_paddable(tokenizer)
    return Base(model, tokenizer)


def _load_causal(name: str, config: Any, kwargs: dict[str, Any]) -> Any:
    if hasattr(config, "vision_config"):
        raise UserError(f"{name}: is a {config.model_type!r} model, which brings eyes of another kind than a LLaVA's")
    return load_whole(AutoModelForCausalLM, name, **kwargs)


def _compose(
    spec: BaseSpec, config: Any, kwargs: dict[str, Any], packed: dict[str, Any], inside: dict[str, Any] | None = None
) -> Base:
    """Language model + vision tower + fresh projector -> one LLaVA.

    ``inside`` says how to read a language model that lies among other weights.
    """
    assert spec.vision_tower is not None
    tower: Any = load_tower(spec.vision_tower, **kwargs)
    layer = SELECT_LAYER if spec.select_layer is None else spec.select_layer
    check_layer(spec.vision_tower, tower.config, layer)
    strategy = select_strategy(spec.vision_tower, tower.config, spec.select_feature)
    llm = _load_causal(spec.model, config, {**kwargs, **packed, **(inside or {})})
    _refuse_other_head(spec.model, llm)
    tokenizer = load_tokenizer(spec.model, config)
    make_paddable(tokenizer)
    add_image_token(tokenizer, llm, spec.extra_tokens)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=llm.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        projector_hidden_act="gelu",
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        mm_projector_type=spec.projector_type or PROJECTOR_TYPE,  # pyright: ignore[reportCallIssue]  LLaVA's own
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    config.image_seq_length = tokens_per_image(config)
    with torch.device("meta"):  # what is made here is replaced below
        model = LlavaForConditionalGeneration(config, tower, llm.base_model)
    model.model.multi_modal_projector = build_projector(config).to(llm.dtype)
    model.lm_head = llm.get_output_embeddings()
    model.generation_config = llm.generation_config
    model.name_or_path = spec.model
    model.set_attn_implementation(kwargs["attn_implementation"])
    mark_quantised(model, llm)
    if packed:  # nothing moves a quantised model later
        for part in (model.model.vision_tower, model.model.multi_modal_projector):
            part.to(llm.device)
    return _seeing(model, tokenizer, spec.vision_tower)


def _refuse_other_head(name: str, llm: Any) -> None:
    """A LLaVA computes its logits by a plain matrix and knows its embeddings by one name."""
    config, head = llm.config, llm.get_output_embeddings()
    scaled = [field for field in _SCALED_HEADS if getattr(config, field, None) not in (None, 1)]
    if scaled or getattr(head, "bias", None) is not None or not hasattr(llm.base_model, "embed_tokens"):
        reason = f"{scaled[0]} {getattr(config, scaled[0])}" if scaled else "other embeddings or a bias"
        raise UserError(
            f"{name}: a {config.model_type!r} model cannot stand behind a vision tower: its vocabulary has {reason}, "
            "which transformers' LLaVA does not compute; choose a language model such as Llama, Mistral or Qwen"
        )


def _seeing(model: LlavaForConditionalGeneration, tokenizer: Any, processor: str) -> Base:
    config = model.config
    image_processor = load_image_processor(processor, config.vision_config)
    return Base(model, tokenizer, image_processor, config.image_token_id, tokens_per_image(config))
