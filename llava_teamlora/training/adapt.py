"""A base and the arguments -> the model that is trained, on processes that know each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base
from llava_teamlora.models.pretrained import gathered
from llava_teamlora.run_card import FULL_FINETUNING
from llava_teamlora.training.aim import aimed
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.budget import adapted_sites, count_adapter, count_elements, match_rank
from llava_teamlora.tuners.low_rank.lost import refuse_lost_file

# What an adapter's function depends on besides its weights; where these are equal, shapes say the rest.
_SAME = ("r", "alpha", "lora_alpha", "num_experts", "router_hidden", "train_interaction", "rank_pattern")


def adapt(base: Base, arguments: Arguments) -> PeftModel | PreTrainedModel:
    """Freeze the base and put the method on it; the projector trains along unless it is frozen.

    Trained weights are float32 whatever the base's dtype, so that small updates are not lost. DeepSpeed keeps such
    copies itself and runs the model in one dtype, the base's. A projector that is not the base's own (of a newly put
    together LLaVA, or given with --pretrain_mm_mlp_adapter) goes into the run folder even when it is frozen: nothing
    else keeps it.

    Raises:
        UserError: the options do not fit the method or the model.
    """
    method = arguments.method.method
    frozen = arguments.model.freeze_mm_mlp_adapter
    has_projector = any(PROJECTOR in name for name, _ in base.model.named_parameters())
    if not has_projector:
        _refuse_without_projector(base, arguments)
    foreign = arguments.model.vision_tower is not None or arguments.model.pretrain_mm_mlp_adapter is not None
    kept = has_projector and (not frozen or foreign)
    try:
        options = aimed(method, arguments.method.options((PROJECTOR,) if kept else None), base.model)
        options = _matched(base.model, arguments, options)
        config = METHODS[method].build(options, base.model.config.model_type)
        if config is None:
            model = _whole(base.model)
        else:
            config.task_type = "CAUSAL_LM"
            adapted_sites(base.model, config)  # refuses targets that match nothing, in words
            set_seed(arguments.training.seed)  # ZeRO-3 draws other numbers than the rest while it loads a base
            model = get_peft_model(base.model, config)
    except (ValueError, TypeError, re.error) as error:
        raise UserError(f"--method {method}: {' '.join(str(error).split())}") from error
    assert isinstance(model, (PeftModel, PreTrainedModel))
    if arguments.method.adapter_name_or_path is not None:
        _start_from(Path(arguments.method.adapter_name_or_path), model, arguments)
    dtype = base_dtype(arguments) if arguments.training.deepspeed else torch.float32
    for name, parameter in model.named_parameters():
        if "vision_tower" in name and name.endswith(".bias"):
            parameter.requires_grad = False  # --bias all means the language model's
        if parameter.requires_grad:
            if parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
            # peft makes AdaLoRA's count of ranks trainable on half-precision bases.
            parameter.requires_grad = not (frozen and PROJECTOR in name) and ".ranknum." not in name
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--method {method}: nothing is left to train; drop --freeze_mm_mlp_adapter")
    return model


def base_dtype(arguments: Arguments) -> torch.dtype:
    """Of the weights that are not trained."""
    training = arguments.training
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32


def _matched(model: Any, arguments: Arguments, options: AdapterOptions) -> AdapterOptions:
    """Options with the rank that ``--match_params`` asks for, if it does."""
    matched = arguments.method.matched()
    if matched is None:
        return options
    frozen = arguments.model.freeze_mm_mlp_adapter
    beside = 0 if frozen else sum(count_elements(p) for name, p in model.named_parameters() if PROJECTOR in name)
    name, theirs = matched
    target = count_adapter(name, aimed(name, theirs, model), model)
    return match_rank(arguments.method.method, options, model, target, beside)


def check_adaptable(arguments: Arguments) -> None:
    """Refuse, before the model is loaded, a method that cannot train what is to be loaded.

    Raises:
        UserError: full fine-tuning of quantised weights.
    """
    if arguments.method.method == FULL_FINETUNING and arguments.model.bits < 16:
        raise UserError(
            f"--method full trains the weights themselves, which --bits {arguments.model.bits} packs; choose another "
            "method or --bits 16"
        )


def _refuse_without_projector(base: Base, arguments: Arguments) -> None:
    """A language model alone has no projector, and an identity has no weights."""
    lacks = "has no projector" if base.image_processor is None else "has a projector without weights"
    said = {
        "--method projector": arguments.method.method == "projector",
        "--mm_projector_lr": arguments.training.mm_projector_lr is not None,
        "--freeze_mm_mlp_adapter": arguments.model.freeze_mm_mlp_adapter,
    }
    for flag, given in said.items():
        if given:
            raise UserError(f"{arguments.model.model_name_or_path}: {lacks}, so {flag} has no effect; leave it out")


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    """Full fine-tuning as LLaVA does it: language model and projector, the vision tower frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "vision_tower" not in name
    return model


def _start_from(folder: Path, model: PeftModel | PreTrainedModel, arguments: Arguments) -> None:
    """Fill the new adapter with another one's weights; both must be of one method, scale and shape.

    Raises:
        UserError: no adapter there, or one that differs; names what does.
    """
    if not isinstance(model, PeftModel):
        raise UserError("--adapter_name_or_path is for an adapter, and --method full has none; drop it")
    try:
        theirs: Any = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
        refuse_lost_file(weights)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: holds no adapter to start from ({str(error).splitlines()[0]})") from error
    ours: Any = model.active_peft_config
    if type(theirs) is not type(ours):
        raise UserError(f"{folder}: holds a {theirs.peft_type.value} adapter, --method is {arguments.method.method}")
    for name in _SAME:
        one, other = getattr(theirs, name, None), getattr(ours, name, None)
        if (one or None) != (other or None):
            raise UserError(
                f"{folder}: its adapter has {name}={one!r}, this run's {other!r}; repeat its options, most easily by "
                f"--config {folder}/run.yaml"
            )
    with gathered([parameter for parameter in model.parameters() if parameter.requires_grad]):
        here = get_peft_model_state_dict(model)
        wrong = sorted(key for key in here.keys() | weights.keys() if _shape(here, key) != _shape(weights, key))
        if wrong:
            key = wrong[0]
            raise UserError(f"{folder}: {key} is {_shape(weights, key)} there, {_shape(here, key)} in this run")
        set_peft_model_state_dict(model, weights)


def _shape(weights: dict[str, Tensor], key: str) -> str:
    return str(tuple(weights[key].shape)) if key in weights else "absent"
