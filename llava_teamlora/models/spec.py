"""What names a base. Imports no torch: a run's card is read with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BaseSpec:
    """What names a base.

    Attributes:
        model: folder or hub id of a LLaVA (transformers' layout, or an original folder) or of a causal language model.
        vision_tower: folder or hub id of a CLIP or SigLIP to put before a language model; None leaves it without eyes.
        select_layer: hidden state of the tower whose features are used; None is a finished LLaVA's own, else -2.
        select_feature: ``patch`` (cls token dropped) or ``cls_patch``; None is a finished LLaVA's own, else ``patch``.
        projector_weights: LLaVA's ``mm_projector.bin`` or a safetensors file with its keys.
        projector_type: ``linear``, ``mlpNx_gelu`` or ``identity``; None is a finished LLaVA's own, else ``mlp2x_gelu``.
        bits: 16, or 8 or 4 for a language model quantised by bitsandbytes while it is loaded.
        quant_type: of 4 bits: ``nf4`` or ``fp4``.
        double_quant: of 4 bits: quantise the scales as well.
        model_base: of an original LLaVA's LoRA or projector: what it belongs to; None is what the folder itself names.
        extra_tokens: to be added to a language model's vocabulary before ``<image>``.
    """

    model: str
    vision_tower: str | None = None
    select_layer: int | None = None
    select_feature: str | None = None
    projector_weights: str | None = None
    projector_type: str | None = None
    bits: int = 16
    quant_type: str = "nf4"
    double_quant: bool = True
    model_base: str | None = None
    extra_tokens: Sequence[str] = ()
