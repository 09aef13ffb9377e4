"""A base's name -> the LLaVA to adapt, with its tokenizer and image processor.

In: :class:`BaseSpec`. Out: :class:`Base`. Two kinds of base are known: a finished LLaVA in transformers' layout,
and a causal language model plus a CLIP vision tower, which get a fresh (or given) two-layer GELU projector as in
LLaVA-1.5. A missing, unexpected or misshapen weight is an error, never a warning.
"""

from __future__ import annotations

import pickle
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging
from transformers.utils.import_utils import is_flash_attn_2_available

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.errors import UserError

logger = logging.get_logger(__name__)

PROJECTOR_TYPE = "mlp2x_gelu"
SELECT_FEATURES = ("patch", "cls_patch")
_SELECT_STRATEGY: dict[str, Literal["default", "full"]] = {"patch": "default", "cls_patch": "full"}
_CLIP_TEXT_SIDE = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
_ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True)
class BaseSpec:
    """What names a base.

    Attributes:
        model: folder or hub id of a LLaVA (transformers' layout) or of a causal language model.
        vision_tower: folder or hub id of a CLIP tower; given exactly when ``model`` is a language model.
        select_layer: hidden state of the tower whose features are used; None is a finished LLaVA's own, else -2.
        select_feature: ``patch`` (cls token dropped) or ``cls_patch``; None is a finished LLaVA's own, else ``patch``.
        projector_weights: LLaVA's ``mm_projector.bin`` or a safetensors file with its keys.
    """

    model: str
    vision_tower: str | None = None
    select_layer: int | None = None
    select_feature: str | None = None
    projector_weights: str | None = None


@dataclass(frozen=True)
class Base:
    """A loaded base.

    Attributes:
        model: the LLaVA, weights frozen or not as loaded.
        tokenizer: fast tokenizer that knows ``<image>``.
        image_processor: the vision tower's.
        image_token_id: id of ``<image>``.
        tokens_per_image: patch features a picture becomes.
    """

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    image_token_id: int
    tokens_per_image: int


def resolve_attention(choice: str, dtype: torch.dtype) -> str:
    """``auto`` -> FlashAttention-2 on CUDA in half precision where it is installed, else sdpa.

    Raises:
        UserError: an unknown choice, or FlashAttention-2 asked for where it cannot run.
    """
    if choice not in _ATTENTION:
        raise UserError(f"--attn_implementation {choice!r} is not one of {', '.join(_ATTENTION)}")
    can_flash = torch.cuda.is_available() and dtype in (torch.float16, torch.bfloat16) and is_flash_attn_2_available()
    if choice == "auto":
        found = "flash_attention_2" if can_flash else "sdpa"
        logger.info("attention: %s", found)
        return found
    if choice == "flash_attention_2" and not can_flash:
        raise UserError(
            "--attn_implementation flash_attention_2 needs a CUDA device, --bf16 True or --fp16 True, and the "
            "flash-attn package (pip install 'llava-teamlora[flash]'); use sdpa otherwise"
        )
    return choice


def load_base(spec: BaseSpec, dtype: torch.dtype = torch.float32, attention: str = "auto") -> Base:
    """Load or put together the LLaVA that ``spec`` names.

    Args:
        spec: which base.
        dtype: of all weights.
        attention: see :func:`resolve_attention`.

    Raises:
        UserError: nothing there, the wrong kind of model, or weights that do not fit.
    """
    config = _load_config(spec.model)
    kwargs = {"dtype": dtype, "attn_implementation": resolve_attention(attention, dtype)}
    if hasattr(config, "mm_vision_tower"):
        raise UserError(
            f"{spec.model}: is an original LLaVA checkpoint; only transformers' layout is read "
            "(as in llava-hf/llava-1.5-7b-hf), or a language model with --vision_tower"
        )
    if isinstance(config, LlavaConfig):
        if spec.vision_tower is not None:
            raise UserError(f"{spec.model}: is a finished LLaVA with its own vision tower; drop --vision_tower")
        _refuse_other_vision(spec, config)
        model, tokenizer, image_processor = _load_finished(spec.model, kwargs)
    else:
        if spec.vision_tower is None:
            raise UserError(
                f"{spec.model}: is a {config.model_type!r} model that sees no pictures; add --vision_tower "
                "(e.g. openai/clip-vit-large-patch14-336) or name a LLaVA"
            )
        model, tokenizer, image_processor = _compose(spec, kwargs)
    if spec.projector_weights is not None:
        load_projector(model, spec.projector_weights)
    for config in (model.generation_config, model.config, model.config.text_config):
        config.pad_token_id = tokenizer.pad_token_id
    return Base(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        image_token_id=model.config.image_token_id,
        tokens_per_image=tokens_per_image(model.config),
    )


def tokens_per_image(config: LlavaConfig) -> int:
    """Patch features of one picture, the cls token counted when it is kept."""
    vision: Any = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy == "full")


def load_projector(model: LlavaForConditionalGeneration, path: str) -> None:
    """Put LLaVA's pre-trained projector (``mm_projector.bin``) into the model.

    Raises:
        UserError: no such file, or keys or shapes that do not fit.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file (--pretrain_mm_mlp_adapter)")
    weights = _read_weights(path)
    names = {"0": "linear_1", "2": "linear_2"}
    renamed: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        prefix, _, rest = key.partition("mm_projector.")
        layer, _, kind = rest.partition(".")
        if layer not in names or not kind:
            raise UserError(f"{path}: unexpected key {key!r}; expected model.mm_projector.{{0,2}}.{{weight,bias}}")
        renamed[f"{names[layer]}.{kind}"] = value
    projector = model.model.multi_modal_projector
    wanted = {name: tuple(value.shape) for name, value in projector.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in renamed.items()}
    if wanted != found:
        raise UserError(f"{path}: holds {found}, but the model's projector is {wanted}")
    projector.load_state_dict(renamed)


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{path}: is no file of weights ({_first_line(error)})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path}: is no file of weights (expected names and tensors)")
    return weights


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_other_vision(spec: BaseSpec, config: LlavaConfig) -> None:
    """A finished LLaVA was trained on certain features; asking for others is refused, not ignored."""
    if spec.select_layer is not None and spec.select_layer != config.vision_feature_layer:
        raise UserError(
            f"{spec.model}: was trained on the tower's layer {config.vision_feature_layer}; drop "
            f"--mm_vision_select_layer {spec.select_layer}"
        )
    feature = spec.select_feature
    if feature is not None and _SELECT_STRATEGY[feature] != config.vision_feature_select_strategy:
        raise UserError(f"{spec.model}: was trained on other features; drop --mm_vision_select_feature {feature}")


def _load_config(name: str) -> Any:
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        hint = "; it is a run folder: name its base instead" if (path / "adapter_config.json").is_file() else ""
        raise UserError(f"{name}: holds no config.json{hint}")
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if path.exists() else "neither a folder here nor a hub model in reach"
        raise UserError(f"{name}: {reason}") from error


def _load_whole(kind: Any, name: str, may_be_left: tuple[str, ...] = (), **kwargs: Any) -> Any:
    """``kind.from_pretrained(name)``, if it can be read and all its weights came along."""
    model, info = _load(kind, name, output_loading_info=True, **kwargs)
    problems = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(key for key in info["unexpected_keys"] if not key.startswith(may_be_left or ("\0",))),
        "misshapen": sorted(str(key) for key in info["mismatched_keys"]),
    }
    found = {kind: keys for kind, keys in problems.items() if keys}
    if found:
        parts = (f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in found.items())
        raise UserError(f"{name}: its weights do not fit its config: {', '.join(parts)}")
    return model


def _load(kind: Any, name: str, **kwargs: Any) -> Any:
    try:
        return kind.from_pretrained(name, **kwargs)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name}: cannot be loaded ({_first_line(error)})") from error


def _load_finished(name: str, kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    model = _load_whole(LlavaForConditionalGeneration, name, **kwargs)
    return model, _load(AutoTokenizer, name), load_image_processor(name)


def load_image_processor(name: str) -> Any:
    """CLIP's image processor on PIL, as in LLaVA: the same pixels whether torchvision is installed or not.

    Raises:
        UserError: none there.
    """
    return _load(CLIPImageProcessorPil, name)


def _compose(spec: BaseSpec, kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Language model + vision tower + fresh projector -> one LLaVA."""
    assert spec.vision_tower is not None
    tower_config = _load_config(spec.vision_tower)
    if tower_config.model_type not in ("clip", "clip_vision_model"):
        raise UserError(f"{spec.vision_tower}: is a {tower_config.model_type!r} model, not a CLIP vision tower")
    tower = _load_whole(CLIPVisionModel, spec.vision_tower, may_be_left=_CLIP_TEXT_SIDE, **kwargs)
    llm = _load_whole(AutoModelForCausalLM, spec.model, **kwargs)
    tokenizer = _load(AutoTokenizer, spec.model)
    _add_image_token(tokenizer, llm)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=llm.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        projector_hidden_act="gelu",
        vision_feature_layer=-2 if spec.select_layer is None else spec.select_layer,
        vision_feature_select_strategy=_SELECT_STRATEGY[spec.select_feature or "patch"],
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    with torch.device("meta"):  # everything on it is replaced below
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = tower
    model.model.language_model = llm.base_model
    model.model.multi_modal_projector = LlavaMultiModalProjector(config).to(llm.dtype)
    model.lm_head = llm.get_output_embeddings()
    model.generation_config = llm.generation_config
    model.set_attn_implementation(kwargs["attn_implementation"])
    return model, tokenizer, load_image_processor(spec.vision_tower)


def _add_image_token(tokenizer: Any, llm: Any) -> None:
    """Give ``<image>`` an id and make padding possible.

    New vocabulary rows are the mean of the old ones. They must be the same each time the base is put together, because
    a run folder does not keep them and the output's enter every softmax.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    before = llm.config.get_text_config().vocab_size
    if len(tokenizer) <= before:
        return
    llm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    tables = [llm.get_input_embeddings().weight, llm.get_output_embeddings().weight]
    with torch.no_grad(), _gathered(tables):
        for table in tables:
            table[before:] = table[:before].float().mean(0).to(table.dtype)


def _gathered(parameters: list[Any]) -> AbstractContextManager[Any]:
    """Whole parameters where ZeRO-3 has split them."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed  # pyright: ignore[reportMissingImports]  an extra

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)
