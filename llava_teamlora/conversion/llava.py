"""A LLaVA in LLaVA's own layout <-> the same LLaVA in transformers'.

In: an original folder (whole, LoRA or projector), a LLaVA in transformers' layout, or a run folder. Out: a new folder,
whole or not at all, its weights read again and compared. docs/checkpoints.md has the names of the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig

from llava_teamlora.conversion.merging import build_processor
from llava_teamlora.conversion.original_config import original_config
from llava_teamlora.conversion.run_folder import write_run
from llava_teamlora.conversion.tokenizer_files import copy_sentencepiece, tokenizer_places, write_tokenizer
from llava_teamlora.conversion.weight_files import write_weights
from llava_teamlora.errors import UserError
from llava_teamlora.files import new_folder, refuse_used_folder
from llava_teamlora.generation.loading import no_progress_bars
from llava_teamlora.models.build import Base, BaseSpec, load_base
from llava_teamlora.models.layout import PROJECTOR_PREFIX, TOWER, elsewhere
from llava_teamlora.models.original import TOWER_FOLDER, find_original, seen_through, stored_dtype
from llava_teamlora.models.projector import llava_keys, projector_type
from llava_teamlora.models.vision import load_tower
from llava_teamlora.run_card import FULL_FINETUNING, RUN_FILE, read_run_card

LAYOUTS = ("original", "transformers")
_DTYPES = ("float32", "bfloat16", "float16")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_GENERATION = "generation_config.json"


@dataclass(frozen=True)
class LayoutPlan:
    """What to convert to what.

    Attributes:
        source: original folder, LLaVA in transformers' layout, hub id of either, or run folder.
        to: ``original`` or ``transformers``.
        output: folder to make.
        model_base: what a LoRA, a projector or a run belongs to; None is what it names itself.
        vision_tower: the tower of an original LLaVA; of a new original folder, what it names as its tower.
        dtype: of the written weights; None is the source's own.
        max_shard_size: largest weight file, such as ``5GB``.

    Raises:
        UserError: an unknown layout or dtype.
    """

    source: str
    to: str
    output: Path
    model_base: str | None = None
    vision_tower: str | None = None
    dtype: str | None = None
    max_shard_size: str = "5GB"

    def __post_init__(self) -> None:
        for flag, value, known in (("--to", self.to, LAYOUTS), ("--dtype", self.dtype, (None, *_DTYPES))):
            if value not in known:
                raise UserError(f"{flag} {value!r} is not one of {', '.join(filter(None, known))}")


def convert_layout(plan: LayoutPlan) -> list[str]:
    """Write the LLaVA that a plan names in the other layout.

    Returns:
        What the user should know of the new folder, a line each.

    Raises:
        UserError: nothing to convert there, a model that the layout cannot hold, or an output that is there already.
    """
    refuse_used_folder(plan.output)
    marks: dict[str, Any] = {}
    if (Path(plan.source) / RUN_FILE).is_file():
        card = read_run_card(plan.source)
        if plan.to == "transformers":
            raise UserError(
                f"{plan.source}: is a run folder; llava-teamlora merge writes it as a model in transformers' layout"
            )
        if card.method != FULL_FINETUNING:
            return write_run(Path(plan.source), card, plan.model_base, plan.vision_tower, plan.output)
        marks = {"image_aspect_ratio": card.image_aspect_ratio}
    spec = _source(plan)
    with no_progress_bars():
        base = load_base(spec, getattr(torch, plan.dtype or stored_dtype(plan.source)))
        with new_folder(plan.output) as folder:
            if plan.to == "original":
                return _write_original(plan, spec, base, folder, marks)
            return _write_transformers(plan, spec, base, folder)


def _source(plan: LayoutPlan) -> BaseSpec:
    """The source as a base, once it is clear that it is in the other layout."""
    original = find_original(plan.source)
    there = "original" if original is not None and original.kind == "full" else "transformers"
    if original is None:
        spec, config = seen_through(BaseSpec(plan.source))
        if not isinstance(config, LlavaConfig):
            raise UserError(f"{plan.source}: is a {config.model_type!r} model, no LLaVA; there is nothing to convert")
        if plan.model_base is not None:
            raise UserError(f"{plan.source}: is a whole LLaVA; drop --model_base {plan.model_base}")
    else:
        spec = BaseSpec(plan.source, vision_tower=plan.vision_tower, model_base=plan.model_base)
    if there == plan.to and (original is None or original.kind == "full"):
        raise UserError(f"{plan.source}: is in that layout already (--to {plan.to})")
    return spec


def _write_transformers(plan: LayoutPlan, spec: BaseSpec, base: Base, folder: Path) -> list[str]:
    """Weights under the hub's names, which every version of transformers reads; config, tokenizer, processor."""
    model: Any = base.model
    config = model.config
    state = {name: weight for name, weight in model.state_dict().items() if not _is_tied(name, config)}
    write_weights({elsewhere(name, "hub"): weight for name, weight in state.items()}, folder, plan.max_shard_size)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = model.dtype
    config.save_pretrained(folder)
    _write_generation(model, folder)
    build_processor(config, base.tokenizer, base.image_processor, plan.source).save_pretrained(folder)
    copy_sentencepiece(tokenizer_places(spec), folder)
    return []


def _write_original(plan: LayoutPlan, spec: BaseSpec, base: Base, folder: Path, marks: dict[str, Any]) -> list[str]:
    """A whole LLaVA as LLaVA itself saves it, in safetensors."""
    model: Any = base.model
    weights = _original_weights(model)
    tower = _name_tower(plan, spec, base, folder)
    model.config.dtype = model.dtype
    config = original_config(plan.source, model.config, base.tokenizer, tower, **marks)
    write_weights(weights, folder, plan.max_shard_size)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_generation(model, folder)
    try:
        slow = write_tokenizer(base.tokenizer, folder, tokenizer_places(spec))
    except UserError as error:
        raise UserError(f"{plan.source}: {error}") from error
    notes = []
    if not slow:
        notes.append(
            "LLaVA's own code reads tokenizer.model, which the source does not have: copy it in from the language model"
        )
    if tower == str(plan.output.resolve() / TOWER_FOLDER):
        notes.append(
            f"The vision tower lies in {TOWER_FOLDER}/, and config.json names it there (mm_vision_tower): LLaVA's own "
            "code needs that changed when the folder moves"
        )
    return notes


def _original_weights(model: Any) -> dict[str, torch.Tensor]:
    """All but the tower's, under LLaVA's names; the vocabulary without ``<image>`` and what pads it."""
    config = model.config
    projector = llava_keys(projector_type(config), model.model.multi_modal_projector)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.startswith(TOWER) or _is_tied(name, config):
            continue
        if name.startswith(PROJECTOR_PREFIX):
            weights[f"model.mm_projector.{projector[name.removeprefix(PROJECTOR_PREFIX)]}"] = weight
            continue
        key = elsewhere(name, "original")
        # A copy of what is kept: a part of a tensor would be written with the whole of it.
        weights[key] = weight[: config.image_token_id].clone() if key in _VOCABULARY else weight
    return weights


def _is_tied(name: str, config: Any) -> bool:
    return name.startswith("lm_head.") and bool(config.tie_word_embeddings)


def _name_tower(plan: LayoutPlan, spec: BaseSpec, base: Base, folder: Path) -> str:
    """What LLaVA is to load as its tower: what is named, if it is the model's own, else a folder written here."""
    model: Any = base.model
    named = plan.vision_tower or seen_through(spec)[0].vision_tower
    if named is not None:
        named = str(Path(named).resolve()) if Path(named).is_dir() else named
        if _is_same_tower(named, model):
            return named
        if plan.vision_tower is not None:
            raise UserError(f"--vision_tower {named}: its weights are not those of {plan.source}'s own tower; drop it")
    inside = folder / TOWER_FOLDER
    inside.mkdir()
    tower = model.model.vision_tower
    weights = {f"vision_model.{name.removeprefix('vision_model.')}": w for name, w in tower.state_dict().items()}
    write_weights(weights, inside, plan.max_shard_size)
    tower.config.architectures = [type(tower).__name__]
    tower.config.save_pretrained(inside)
    base.image_processor.save_pretrained(inside)
    return str(plan.output.resolve() / TOWER_FOLDER)


def _is_same_tower(name: str, model: Any) -> bool:
    ours = model.model.vision_tower
    theirs = load_tower(name, dtype=ours.dtype).state_dict()
    return all(name in theirs and torch.equal(theirs[name], weight) for name, weight in ours.state_dict().items())


def _write_generation(model: Any, folder: Path) -> None:
    """As it is, though transformers would not save some of what older versions did (a temperature without sampling)."""
    text = json.dumps(model.generation_config.to_diff_dict(), indent=2)
    (folder / _GENERATION).write_text(text + "\n", encoding="utf-8")
