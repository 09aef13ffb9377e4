"""A base and the arguments -> the model that is trained, on processes that know each other."""

from __future__ import annotations

import os
import re
from typing import Any

from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel, set_seed

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base
from llava_teamlora.training.arguments import Arguments
from llava_teamlora.tuners import METHODS, AdapterOptions
from llava_teamlora.tuners.budget import adapted_sites, count_adapter, count_elements, match_rank


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
