"""A base and the arguments -> the model that is trained, on processes that know each other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base
from llava_teamlora.training.arguments import Arguments
from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.budget import adapted_sites, count_adapter, count_elements, match_rank
from llava_teamlora.tuners.low_rank.lost import refuse_lost_file

# What an adapter's function depends on besides its weights; where these are equal, shapes say the rest.
_SAME = ("r", "alpha", "lora_alpha", "num_experts", "router_hidden", "train_interaction", "rank_pattern")


def adapt(base: Base, arguments: Arguments) -> PeftModel | PreTrainedModel:
    """Freeze the base and put the method on it; the projector trains along unless it is frozen.

    Trained weights are float32 whatever the base's dtype, so that small updates are not lost (in full fine-tuning
    DeepSpeed keeps such copies itself). The projector of a newly put together LLaVA goes into the run folder even when
    it is frozen: nothing else keeps it.

    Raises:
        UserError: the options do not fit the method or the model.
    """
    method = arguments.method.method
    frozen = arguments.model.freeze_mm_mlp_adapter
    kept = not frozen or arguments.model.vision_tower is not None
    try:
        options = _matched(base.model, arguments, arguments.method.options((PROJECTOR,) if kept else None))
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
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if config is not None or not arguments.training.deepspeed:
                parameter.data = parameter.data.float()
            # peft makes AdaLoRA's count of ranks trainable on half-precision bases.
            parameter.requires_grad = not (frozen and PROJECTOR in name) and ".ranknum." not in name
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--method {method}: nothing is left to train; drop --freeze_mm_mlp_adapter")
    return model


def _matched(model: Any, arguments: Arguments, options: AdapterOptions) -> AdapterOptions:
    """Options with the rank that ``--match_params`` asks for, if it does."""
    matched = arguments.method.matched()
    if matched is None:
        return options
    frozen = arguments.model.freeze_mm_mlp_adapter
    beside = 0 if frozen else sum(count_elements(p) for name, p in model.named_parameters() if PROJECTOR in name)
    return match_rank(arguments.method.method, options, model, count_adapter(*matched, model), beside)


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
    if not isinstance(model, PeftModel) or is_deepspeed_zero3_enabled():
        raise UserError("--adapter_name_or_path goes with an adapter, and with no more of DeepSpeed than ZeRO-2")
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
    here = get_peft_model_state_dict(model)
    wrong = sorted(key for key in here.keys() | weights.keys() if _shape(here, key) != _shape(weights, key))
    if wrong:
        key = wrong[0]
        raise UserError(f"{folder}: {key} is {_shape(weights, key)} there, {_shape(here, key)} in this run")
    set_peft_model_state_dict(model, weights)


def _shape(weights: dict[str, Tensor], key: str) -> str:
    return str(tuple(weights[key].shape)) if key in weights else "absent"


def start_deepspeed(arguments: Arguments) -> None:
    """ZeRO-3 splits weights while they are loaded, so DeepSpeed must know its processes before (on CPU it does not).

    Raises:
        UserError: ``--deepspeed`` without the package, or without a launcher that sets the processes up.
    """
    if not arguments.training.deepspeed:
        return
    if "RANK" not in os.environ:
        raise UserError("--deepspeed needs a launcher: torchrun --nproc_per_node N -m llava_teamlora.cli train …")
    from deepspeed import comm  # pyright: ignore[reportMissingImports]  an extra

    if not comm.is_initialized():
        comm.init_distributed(dist_backend="gloo" if arguments.training.use_cpu else None)
