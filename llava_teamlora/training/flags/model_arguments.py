"""What a run tunes: the base, as flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError
from llava_teamlora.models.original import PROJECTOR_FILE
from llava_teamlora.models.projector import count_linears
from llava_teamlora.models.quantise import check_quantisation
from llava_teamlora.models.spec import BaseSpec
from llava_teamlora.models.vision import SELECT_FEATURES
from llava_teamlora.training.flags.flag import flag


@dataclass
class ModelArguments:
    """What is tuned."""

    model_name_or_path: str = flag(
        "Folder or hub id of a LLaVA, in transformers' layout or LLaVA's own, or of a language model: with "
        "--vision_tower it learns to see, without it is trained on text alone."
    )
    vision_tower: str | None = flag("CLIP or SigLIP tower to put before a language model.", None)
    version: str = flag(
        "Conversation template (docs/templates.md): v1, plain for projectors, cme for text alone, chat for the "
        "tokenizer's own chat template, …",
        "v1",
    )
    model_base: str | None = flag(
        "What an original LLaVA's LoRA or projector folder belongs to, if not what the folder itself names.", None
    )
    mm_vision_select_layer: int | None = flag(
        "Hidden state of the tower that is used: 0 before its first layer, -1 after its last (default -2).", None
    )
    mm_vision_select_feature: str | None = flag("patch (default), or cls_patch to keep CLIP's cls token.", None)
    mm_projector_type: str | None = flag(
        "Projector of a newly put together LLaVA: mlpNx_gelu, linear or identity (default mlp2x_gelu).", None
    )
    pretrain_mm_mlp_adapter: str | None = flag(
        "mm_projector.bin to start the projector from, or the run folder of a pretraining, which holds one.", None
    )
    freeze_mm_mlp_adapter: bool = flag("Do not train the projector.", False)
    attn_implementation: str = flag("auto, sdpa, eager or flash_attention_2.", "auto")
    cache_dir: str | None = flag("Where models of the hub are kept (default: as HF_HUB_CACHE says).", None)
    bits: int = flag("16, or 8 or 4 to quantise the language model while it is loaded (QLoRA; extra quant).", 16)
    quant_type: str = flag("Of --bits 4: nf4 or fp4.", "nf4")
    double_quant: bool = flag("Of --bits 4: quantise the scales as well.", True)

    def __post_init__(self) -> None:
        get_template(self.version)
        check_quantisation(self.bits, self.quant_type)
        if self.mm_projector_type is not None:
            count_linears(self.mm_projector_type)
        if self.mm_vision_select_feature not in (None, *SELECT_FEATURES):
            raise UserError(f"--mm_vision_select_feature {self.mm_vision_select_feature!r} is not patch or cls_patch")
        projector = self.pretrain_mm_mlp_adapter
        if projector is not None and (Path(projector) / PROJECTOR_FILE).is_file():
            projector = self.pretrain_mm_mlp_adapter = str(Path(projector) / PROJECTOR_FILE)
        if projector is not None and not Path(projector).is_file():
            raise UserError(f"{projector}: no such file (--pretrain_mm_mlp_adapter)")
        if self.vision_tower is not None and self.freeze_mm_mlp_adapter and projector is None:
            raise UserError(
                "--freeze_mm_mlp_adapter would freeze a projector that was never trained; give it with "
                "--pretrain_mm_mlp_adapter, or let it train"
            )

    def base(self) -> BaseSpec:
        """The base these arguments name; local folders absolute, so that a run folder may be moved."""
        return BaseSpec(
            model=_absolute(self.model_name_or_path),
            vision_tower=_absolute(self.vision_tower) if self.vision_tower else None,
            select_layer=self.mm_vision_select_layer,
            select_feature=self.mm_vision_select_feature,
            projector_weights=_absolute(self.pretrain_mm_mlp_adapter) if self.pretrain_mm_mlp_adapter else None,
            projector_type=self.mm_projector_type,
            bits=self.bits,
            quant_type=self.quant_type,
            double_quant=self.double_quant,
            model_base=_absolute(self.model_base) if self.model_base else None,
        )


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name
