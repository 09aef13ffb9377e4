"""A run's LoRA or projector -> a folder as LLaVA's own training leaves it.

In: a run folder of method ``lora`` or ``projector``. Out: ``adapter_config.json``, ``adapter_model.safetensors`` and
``non_lora_trainables.bin``, or ``mm_projector.bin``; with LLaVA's ``config.json``. Of the base a few blocks of
each weight are read, to see that it is the one the run was trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llava_teamlora.checkpoint import base_of_run, check_base
from llava_teamlora.constants import PROJECTOR
from llava_teamlora.conversion.original_config import original_config
from llava_teamlora.conversion.weight_files import verify
from llava_teamlora.errors import UserError
from llava_teamlora.files import new_folder
from llava_teamlora.models.build import load_base
from llava_teamlora.models.layout import LANGUAGE_MODEL
from llava_teamlora.models.original import (
    ADAPTER_CONFIG,
    NON_LORA_FILE,
    PROJECTOR_FILE,
    find_original,
    is_finished,
    read_json,
    seen_through,
)
from llava_teamlora.models.original_weights import lora_scale
from llava_teamlora.models.outline import outlining
from llava_teamlora.models.pretrained import read_weights
from llava_teamlora.models.projector import llava_projector, projector_type, write_projector
from llava_teamlora.run_card import ADAPTER_FILE, RunCard

_PEFT = "base_model.model."
_MERGED_FIRST = ("moslora", "adalora", "ia3")


def write_run(run: Path, card: RunCard, model_base: str | None, tower: str | None, output: Path) -> list[str]:
    """Write a run's adapter as LLaVA's own training does.

    Args:
        run: its folder.
        card: its ``run.yaml``.
        model_base: where its base lies now, if it has moved.
        tower: what LLaVA is to load as its vision tower; None is what the base names. Of a base put together with a
            tower, a folder here is taken for that tower, and compared.
        output: folder to make.

    Returns:
        What the user should know of it.

    Raises:
        UserError: a method that LLaVA does not know, another base than the run's, or one without a name for its tower.
    """
    _refuse_method(run, card.method)
    moved = tower if card.base.vision_tower and tower and Path(tower).is_dir() else None
    spec = base_of_run(run, card, model_base, moved)
    tower = tower or seen_through(spec)[0].vision_tower
    if tower is None:
        raise UserError(
            f"{run}: its base {spec.model} keeps its vision tower inside, but an original LLaVA names one; say which "
            "with --vision_tower (openai/clip-vit-large-patch14-336 for LLaVA-1.5; for a tower of one's own, convert "
            "the base first and name the vision_tower/ in the folder that comes out)"
        )
    check_base(run, card, spec)
    with outlining():
        base = load_base(spec)
    weights = read_weights(str(run / ADAPTER_FILE))
    length = card.arguments.get("model_max_length", base.tokenizer.model_max_length)
    marks = {"image_aspect_ratio": card.image_aspect_ratio, "tokenizer_model_max_length": length}
    theirs: Any = base.model.config
    config = original_config(str(run), theirs, base.tokenizer, tower, _name_or_path=spec.model, **marks)
    kind = projector_type(theirs)
    with new_folder(output) as folder:
        if card.method == "lora":
            _write_lora(run, weights, spec.model, kind, folder)
        else:
            config["tune_mm_mlp_adapter"] = True
            write_projector(weights, kind, folder / PROJECTOR_FILE)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if is_finished(spec.model) and find_original(spec.model) is None:
        return [f"LLaVA's own code needs the base in its layout too: llava-teamlora convert {spec.model} --to original"]
    return []


def _refuse_method(run: Path, method: str) -> None:
    if method in _MERGED_FIRST:
        raise UserError(
            f"{run}: LLaVA knows no {method}; write the run as a whole model first (llava-teamlora merge), then "
            "convert that"
        )
    if method not in ("lora", "projector"):
        raise UserError(
            f"{run}: a {method} run cannot be written in LLaVA's layout: what it adds depends on the input or lies "
            "before it, and LLaVA knows LoRAs and whole weights alone (docs/conversions.md)"
        )


def _write_lora(run: Path, weights: dict[str, Tensor], base: str, kind: str, folder: Path) -> None:
    config = read_json(run / ADAPTER_CONFIG)
    lora_scale({**config, "modules_to_save": None}, run / ADAPTER_CONFIG)  # refuses more than A, B and a scale
    others = {name: weight for name, weight in weights.items() if ".lora_" not in name}
    foreign = next((name for name in others if f".{PROJECTOR}." not in name), None)
    if foreign is not None:
        raise UserError(f"{run / ADAPTER_FILE}: {foreign} has no place in a LoRA folder of LLaVA's")
    lora = {_llava_name(name, run): weight for name, weight in weights.items() if ".lora_" in name}
    save_file(lora, folder / ADAPTER_FILE, metadata={"format": "pt"})
    beside = {f"{_PEFT}{name}": weight for name, weight in llava_projector(others, kind).items()}
    torch.save(beside, folder / NON_LORA_FILE)
    text = json.dumps(_adapter_config(config, base, lora), indent=2)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
    verify(lora, [folder / ADAPTER_FILE])
    verify(beside, [folder / NON_LORA_FILE])


def _llava_name(name: str, run: Path) -> str:
    inside = name.removeprefix(_PEFT)
    if inside.startswith(f"{LANGUAGE_MODEL}layers."):
        return f"{_PEFT}model.{inside.removeprefix(LANGUAGE_MODEL)}"
    raise UserError(f"{run / ADAPTER_FILE}: adapts {inside}, outside of the language model's layers")


def _adapter_config(config: dict[str, Any], base: str, lora: dict[str, Tensor]) -> dict[str, Any]:
    """The fields that every version of peft knows, so that LLaVA's takes them too."""
    alpha = config["lora_alpha"]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config["r"],
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": config.get("lora_dropout") or 0.0,
        "target_modules": _targets(lora),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "modules_to_save": None,
        "revision": None,
        **({"use_rslora": True} if config.get("use_rslora") else {}),
    }


def _targets(lora: dict[str, Tensor]) -> list[str]:
    """Leaf names where every layer has the same ones, as LLaVA writes them; else whole names."""
    names = {name.removeprefix(_PEFT).partition(".lora_")[0] for name in lora}
    leaves = {name.rpartition(".")[2] for name in names}
    layers = {name.split(".")[2] for name in names}
    return sorted(leaves if len(names) == len(leaves) * len(layers) else names)
