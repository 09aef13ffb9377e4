"""A language model's linears in 4 or 8 bits (QLoRA), by bitsandbytes.

In: bits and how. Out: arguments for ``from_pretrained``. The vision tower, the projector, the embeddings and the head
keep their precision. Defaults are LLaVA's (``--bits``, ``--quant_type``, ``--double_quant``).
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from llava_teamlora.errors import UserError

BITS = (16, 8, 4)
QUANT_TYPES = ("nf4", "fp4")

NOT_THE_LANGUAGE_MODEL = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
_MARKS = ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit")
"""What transformers writes on a quantised model, for the Trainer and peft to see."""


def check_quantisation(bits: int, quant_type: str) -> None:
    """Refuse what bitsandbytes does not know, and what this machine lacks for it.

    Raises:
        UserError: naming the flag.
    """
    if bits not in BITS:
        raise UserError(f"--bits {bits} is not one of {', '.join(map(str, BITS))}")
    if quant_type not in QUANT_TYPES:
        raise UserError(f"--quant_type {quant_type!r} is not one of {', '.join(QUANT_TYPES)}")
    if bits < 16 and find_spec("bitsandbytes") is None:
        raise UserError(f"--bits {bits} needs bitsandbytes: pip install 'llava-teamlora[quant]'")


def quantised(bits: int, quant_type: str, double_quant: bool, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments for ``from_pretrained`` of a language model or a LLaVA; none for 16 bits.

    Args:
        bits: 16, 8 or 4.
        quant_type: of 4 bits: ``nf4`` or ``fp4``.
        double_quant: of 4 bits: quantise the blocks' scales as well.
        dtype: what is computed in.
        device: where the weights are put; quantised ones stay there.

    Raises:
        UserError: see :func:`check_quantisation`; also under ZeRO-3, which cannot split such weights.
    """
    check_quantisation(bits, quant_type)
    if bits == 16:
        return {}
    if is_deepspeed_zero3_enabled():
        raise UserError(f"--bits {bits}: ZeRO-3 cannot split quantised weights; use scripts/zero2.json")
    if bits == 8:
        # 8-bit products are computed in half precision, whatever goes in: bitsandbytes warns of each.
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_no_cast)
        warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast", category=UserWarning)
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=list(NOT_THE_LANGUAGE_MODEL),
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _is_no_cast(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


def steady(model: PreTrainedModel) -> None:
    """Let 4-bit linears compute the same in and out of training, on processors with AVX-512 BF16 too.

    There bitsandbytes repacks the weights when a linear first runs outside of training. It puts them back when a state
    dict is read, as for a checkpoint: not quite as they were, and without double quantisation quite wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  nn.Module's typed attributes are modules


def mark_quantised(model: PreTrainedModel, part: PreTrainedModel) -> None:
    """Say of a model what transformers says of its quantised part."""
    for name in _MARKS:
        if name in vars(part):
            setattr(model, name, vars(part)[name])
