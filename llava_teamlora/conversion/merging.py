"""A run folder -> a plain model folder in transformers' layout, without peft.

In: a run folder. Out: weights, tokenizer and processor, readable by ``llava-teamlora`` as a base and by transformers,
and ``merge.json``, which says what was merged and how far the merged model is from the run's: of an exact merge by
the largest difference of logits, of an approximate one by what it costs on data.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import ModulesToSaveWrapper
from transformers import LlavaProcessor

from llava_teamlora.checkpoint import Loaded
from llava_teamlora.conversion.calibration import DataPlan, load_calibration
from llava_teamlora.conversion.tokenizer_files import copy_sentencepiece, tokenizer_places
from llava_teamlora.errors import UserError
from llava_teamlora.files import new_folder, refuse_used_folder
from llava_teamlora.generation.loading import load_quietly, no_progress_bars
from llava_teamlora.models.fingerprint import file_sha256
from llava_teamlora.models.original import stored_dtype
from llava_teamlora.models.place import parse_dtype
from llava_teamlora.models.spec import BaseSpec
from llava_teamlora.models.vision import tower_kind
from llava_teamlora.run_card import FULL_FINETUNING, read_run_card
from llava_teamlora.tuners.low_rank.config import LowRankConfig
from llava_teamlora.tuners.low_rank.layer import MERGE_REFUSAL
from llava_teamlora.tuners.routed.adapter import method_name
from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.mean_merge import MeanMerge, approximate_merge

REPORT_FILE = "merge.json"
_QUESTION = "What is it, and what does it look like?"


@dataclass(frozen=True)
class MergePlan:
    """What to merge into what.

    Attributes:
        run: run folder or checkpoint.
        output: folder to make.
        data: calibration data; given exactly when the merge may be approximate.
        device: see ``load_model``.
        dtype: of the merged weights; None is the base's own.
        model_base: see ``load_model``. An adapter trained on fewer bits is merged into the base's 16.
        vision_tower: see ``load_model``.
    """

    run: Path
    output: Path
    data: DataPlan | None = None
    device: str | None = None
    dtype: str | None = None
    model_base: str | None = None
    vision_tower: str | None = None


def merge_run(plan: MergePlan) -> dict[str, Any]:
    """Merge a run's adapter into its base and write the plain model.

    An exact merge is computed in float32, whatever the base's dtype, and rounded once: when it is written.

    Returns:
        What is written to ``merge.json``.

    Raises:
        UserError: nothing to merge there, a method that cannot be merged, or an output that is there already.
    """
    refuse_used_folder(plan.output)
    card = read_run_card(plan.run)
    if card.method == FULL_FINETUNING:
        raise UserError(f"{plan.run}: holds a whole model, trained in full; there is no adapter to merge")
    _check_mergeable(plan)
    dtype = parse_dtype(plan.dtype or stored_dtype(plan.model_base or card.base.model), "cpu")
    device = plan.device or ("cpu" if plan.data is None else None)
    computed = "float32" if plan.data is None else str(dtype).removeprefix("torch.")
    places = {"model_base": plan.model_base, "vision_tower": plan.vision_tower}
    loaded = load_quietly(plan.run, device=device, dtype=computed, bits=16, wide_adapter=True, **places)
    written = str(dtype).removeprefix("torch.")
    report: dict[str, Any] = {"merged": loaded.manifest, "dtype": written, "exact": None, "approximate": None}
    if plan.data is None:
        model, report["exact"] = _exact(loaded, dtype)
    else:
        merged = _approximate(loaded, plan.data)
        model = merged.model
        report["approximate"] = {"method": "mean", **_costs(merged), **_data(plan.data)}
    _write(plan.output, model, loaded, report)
    return report


def _exact(loaded: Loaded, dtype: torch.dtype) -> tuple[Any, dict[str, float]]:
    """Merge in float32 and round to ``dtype``.

    Returns:
        The merged model, and the largest absolute difference of its logits from the run's for a short prompt of text,
        both computed in float32: before its weights are rounded, and after.
    """
    before = _logits(loaded, loaded.model)
    _unwrap_trained(loaded.model)
    model = loaded.model.merge_and_unload(safe_merge=True)
    report = {
        "largest_logit": before.abs().max().item(),
        "logit_difference": (_logits(loaded, model) - before).abs().max().item(),
    }
    model.to(dtype)  # one weight after the other: there are never two models in memory
    report["logit_difference_as_written"] = (_logits(loaded, model.float()) - before).abs().max().item()
    return model.to(dtype), report


@torch.no_grad()
def _logits(loaded: Loaded, model: Any) -> torch.Tensor:
    """``[1, T, V]`` for what opens a conversation, and a question."""
    text = "".join(segment.text for segment in loaded.template.opening) + _QUESTION
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    return model(input_ids=ids.to(model.device)).logits


def _unwrap_trained(model: Any) -> None:
    """Put modules that were trained in full in their places: peft's merge of an IA3 fails at those without a weight."""
    for path, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, module.unload_and_optionally_merge_module(True, True, None))


def _check_mergeable(plan: MergePlan) -> None:
    """Refuse before anything is loaded."""
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(plan.run))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{plan.run}: its adapter cannot be read ({str(error).splitlines()[0]})") from error
    name = method_name(config)
    if config.is_prompt_learning:
        raise UserError(f"{plan.run}: {name} learns tokens in front of the input, which no weight can hold")
    routed = isinstance(config, RoutedConfig)
    if routed and plan.data is None:
        raise UserError(
            f"{plan.run}: {name} cannot be merged exactly: how much each expert adds depends on the input, token by "
            "token. Serve the run folder as it is; or, knowing that it is another model, fold the experts in at their "
            "mean weights over a calibration set: --approximate mean --data_path JSON --image_folder DIR, which also "
            "reports what that costs"
        )
    tuners: dict[Any, Any] = PEFT_TYPE_TO_TUNER_MAPPING  # pyright: ignore[reportAssignmentType]
    if isinstance(config, LowRankConfig) and not (routed or tuners[config.peft_type].tuner_layer_cls.can_merge()):
        raise UserError(f"{plan.run}: {name}: {MERGE_REFUSAL}")
    if not routed and plan.data is not None:
        raise UserError(f"{plan.run}: {name} merges exactly; drop --approximate and its data")


def _approximate(loaded: Loaded, data: DataPlan) -> MeanMerge:
    calibration = load_calibration(loaded, data)
    try:
        return approximate_merge(loaded.model, calibration.batches, calibration.held_out)
    except ValueError as error:
        raise UserError(f"{loaded.name}: {error}") from error


def _costs(merged: MeanMerge) -> dict[str, Any]:
    means = {path: {name: mean.tolist() for name, mean in of.items()} for path, of in merged.participation.items()}
    return {
        "calibration": asdict(merged.calibration),
        "held_out": asdict(merged.held_out) if merged.held_out is not None else None,
        "mean_participation": means,
    }


def _data(plan: DataPlan) -> dict[str, Any]:
    return {"data_path": str(plan.data_path), "data_sha256": file_sha256(plan.data_path), "limit": plan.limit}


def _write(output: Path, model: Any, loaded: Loaded, report: dict[str, Any]) -> None:
    """Write the model folder, whole or not at all."""
    with new_folder(output) as folder, no_progress_bars():
        for part in model.config.sub_configs:  # save_pretrained sets the whole's alone
            getattr(model.config, part).dtype = model.dtype
        if loaded.vision is not None:
            model.config.image_aspect_ratio = loaded.vision.aspect_ratio
        model.save_pretrained(folder)
        _beside(model.config, loaded).save_pretrained(folder)
        copy_sentencepiece(tokenizer_places(BaseSpec(**loaded.manifest["base"])), folder)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _beside(config: Any, loaded: Loaded) -> Any:
    """What belongs beside the weights: a LLaVA's processor, or a language model's tokenizer."""
    if loaded.vision is None:
        return loaded.tokenizer
    return build_processor(config, loaded.tokenizer, loaded.vision.image_processor, loaded.name)


def build_processor(config: Any, tokenizer: Any, image_processor: Any, name: str) -> LlavaProcessor:
    """What transformers makes prompts and pictures ready with.

    Args:
        config: the LLaVA's.
        tokenizer: which knows ``<image>``.
        image_processor: the tower's.
        name: whose they are, for messages.
    """
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=str(tokenizer.convert_ids_to_tokens(config.image_token_id)),
        num_additional_image_tokens=int(tower_kind(name, config.vision_config).has_cls),
    )
