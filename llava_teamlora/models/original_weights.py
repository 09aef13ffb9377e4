"""What an original LLaVA folder holds beside a language model -> into a model that stands already.

In: an :class:`Original` and a LLaVA put together from what lies under it. Out: the same model with the folder's
projector, its tower and vocabulary rows where it has them, and its LoRA merged. Every weight is used or named in an
error.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_teamlora.errors import UserError
from llava_teamlora.models.layout import LANGUAGE_MODEL, RECOMPUTED
from llava_teamlora.models.original import ADAPTER_CONFIG, NON_LORA_FILE, PROJECTOR_FILE, Original, read_json
from llava_teamlora.models.pretrained import gathered, read_weights
from llava_teamlora.models.projector import fill_projector, projector_type

BESIDE = ("model.mm_projector.", "model.vision_tower.")
"""Beginnings of the names that a full folder holds beside its language model."""

_TOWER = "model.vision_tower.vision_tower.vision_model."
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LORA_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")

# Of a LoRA's configuration: what is reckoned with here, and what changes nothing about saved weights.
_USED = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules"}
_IDLE = {
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "lora_dropout", "bias",
    "init_lora_weights", "peft_version", "megatron_core", "qalora_group_size", "enable_lora",
}  # fmt: skip


def put_in(original: Original, model: Any, on_llava: bool) -> None:
    """Fill a LLaVA with an original folder's own weights.

    Args:
        original: the folder.
        model: what :meth:`Original.under` names, loaded.
        on_llava: that has a trained projector already, so that a LoRA need not bring one.

    Raises:
        UserError: a weight that is missing, unexpected or misshapen; a LoRA with more to it than A, B and a scale.
    """
    beside = _beside(original)
    source = str(original.folder)
    projector = _take(beside, "model.mm_projector.")
    kind = projector_type(model.config)
    if not projector and kind != "identity" and not (original.kind == "lora" and on_llava):
        raise UserError(f"{source}: holds no projector (keys …mm_projector.*), and what it lies on has none either")
    if projector:
        fill_projector(model.model.multi_modal_projector, kind, projector, source)
    tower = {key.removeprefix(_TOWER): weight for key, weight in _take(beside, _TOWER).items()}
    if tower:
        _fill_tower(model.model.vision_tower, tower, source)
    tables = {
        "model.embed_tokens.weight": model.get_input_embeddings(),
        "lm_head.weight": model.get_output_embeddings(),
    }
    for key in sorted(tables.keys() & beside.keys()):
        _fill_rows(tables[key].weight, beside.pop(key), model.config.image_token_id, f"{source}: {key}")
    if beside:
        raise UserError(f"{source}: holds {next(iter(beside))!r}, which has no place in a LLaVA-1.5")
    if original.kind == "lora":
        _merge_lora(original, model)


def has_tower(original: Original) -> bool:
    """Whether a folder holds its vision tower's weights itself."""
    return original.kind == "full" and any(name.startswith(_TOWER) for name in _beside(original))


def _beside(original: Original) -> dict[str, Tensor]:
    """Weights that are not the language model's, under LLaVA's names without peft's prefix."""
    folder = original.folder
    if original.kind == "full":
        files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        found: dict[str, Tensor] = {}
        for file in files:  # one after the other: the language model's weights are let go of at once
            weights = read_weights(str(file)).items()
            found |= {k: v for k, v in weights if k.startswith(BESIDE) and not k.endswith(RECOMPUTED)}
        return found
    path = folder / (NON_LORA_FILE if original.kind == "lora" else PROJECTOR_FILE)
    if not path.is_file():
        raise UserError(
            f"{folder}: holds a LoRA but no {NON_LORA_FILE}, which has its projector (LLaVA writes it only at the end "
            "of a run; its checkpoint-N folders lack it)"
        )
    weights = read_weights(str(path))
    return {_without_peft(name): weight for name, weight in weights.items() if not name.endswith(RECOMPUTED)}


def _without_peft(name: str) -> str:
    """LLaVA's LoRA runs write a parameter's name as peft's wrapper has it; its loader strips that in two steps."""
    name = name.removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith(("model.model.", "model.lm_head.")) else name


def _take(weights: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name: weights.pop(name) for name in list(weights) if name.startswith(beginning)}


def _fill_tower(tower: Any, weights: dict[str, Tensor], source: str) -> None:
    """Weights of a tower in the folder count more than those of the model that ``mm_vision_tower`` names."""
    with torch.no_grad(), gathered(list(tower.parameters())):
        own = {name.removeprefix("vision_model."): value for name, value in tower.state_dict().items()}
        for name in sorted(own.keys() | weights.keys()):
            ours, theirs = _shape(own.get(name)), _shape(weights.get(name))
            if ours != theirs:
                raise UserError(
                    f"{source}: {_TOWER}{name} is {theirs}, but its tower's {name} is {ours} (mm_vision_tower)"
                )
        for name, value in own.items():
            value.copy_(weights[name])


def _fill_rows(table: Tensor, rows: Tensor, count: int, where: str) -> None:
    """Rows of the vocabulary without ``<image>``, which this package adds behind them."""
    with torch.no_grad(), gathered([table]):
        wanted = (count, table.shape[1])
        if tuple(rows.shape) != wanted:
            raise UserError(f"{where} is {_shape(rows)}, but its tokens and the base's width make {wanted}")
        table[:count] = rows.to(table.device, table.dtype)


def _merge_lora(original: Original, model: Any) -> None:
    """Add every update to its weight, in float32. Differs from LLaVA, which adds in float16: less is rounded away."""
    config = read_json(original.folder / ADAPTER_CONFIG)
    path = next((path for name in _ADAPTER_FILES if (path := original.folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{original.folder}: holds {ADAPTER_CONFIG} but none of {', '.join(_ADAPTER_FILES)}")
    scale = lora_scale(config, original.folder / ADAPTER_CONFIG)
    updates = _pairs(read_weights(str(path)), path)
    missing = sorted(_targets(config, model) - updates.keys())
    if missing:
        raise UserError(f"{path}: lacks lora_A and lora_B of {missing[0]}, which target_modules names")
    for name, update in updates.items():
        _add(model, name, update, config["r"], scale, path)


def lora_scale(config: dict[str, Any], path: Path) -> float:
    """What B A is multiplied by in a LoRA with nothing more to it.

    Args:
        config: ``adapter_config.json``.
        path: where it lies, for messages.

    Raises:
        UserError: no LoRA, or one with a field that changes what it computes.
    """
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: holds a {config.get('peft_type')} adapter; LLaVA's own are LoRAs")
    for field, value in config.items():
        if value and field not in _USED | _IDLE:
            raise UserError(f"{path}: {field} is {value!r}, more than a LoRA of LLaVA's has; it cannot be merged here")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise UserError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}; both must be numbers, r at least 1")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(weights: dict[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    """Name of a linear in LLaVA -> its A ``[r, I]`` and B ``[O, r]``."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            raise UserError(f"{path}: unexpected key {key!r}; a LoRA of LLaVA's has …lora_A.weight and …lora_B.weight")
        pairs.setdefault(match.group(1), {})[match.group(2)] = weight
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise UserError(f"{path}: has lora_{next(iter(pair))} of {name} alone; A and B come together")
    return pairs


def _targets(config: dict[str, Any], model: Any) -> set[str]:
    """Names, in LLaVA, of the language model's linears that the configuration says are adapted."""
    targets = config.get("target_modules") or []
    modules = model.model.language_model.named_modules()
    names = {f"model.{name}" for name, module in modules if isinstance(module, torch.nn.Linear)} | {"lm_head"}
    if isinstance(targets, str):
        return {name for name in names if re.fullmatch(targets, name)}
    return {name for name in names if any(name == target or name.endswith(f".{target}") for target in targets)}


def _add(model: Any, name: str, update: dict[str, Tensor], rank: int, scale: float, path: Path) -> None:
    ours = re.sub(r"^model\.layers\.", f"{LANGUAGE_MODEL}layers.", name)
    try:
        linear = model.get_submodule(ours)
    except AttributeError as error:
        raise UserError(
            f"{path}: adapts {name}, which the base does not have; is it the right one (--model_base)?"
        ) from error
    a, b = update["A"], update["B"]
    with torch.no_grad(), gathered([linear.weight]):
        weight = linear.weight
        if tuple(a.shape) != (rank, weight.shape[1]) or tuple(b.shape) != (weight.shape[0], rank):
            raise UserError(
                f"{path}: lora_A and lora_B of {name} are {_shape(a)} and {_shape(b)}, which with r = {rank} do not "
                f"fit the base's {_shape(weight)}; is it the right one (--model_base)?"
            )
        total = weight.float() + scale * (b.to(weight.device).float() @ a.to(weight.device).float())
        weight.copy_(total)


def _shape(weight: Tensor | None) -> str:
    return "absent" if weight is None else str(tuple(weight.shape))
