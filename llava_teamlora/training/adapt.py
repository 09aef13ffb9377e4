"""A base and the arguments -> the model that is trained, on processes that know each other."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from peft import PeftModel, get_peft_model

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base
from llava_teamlora.training.arguments import Arguments
from llava_teamlora.tuners import METHODS
from llava_teamlora.tuners.budget import adapted_shapes, count_adapter, match_rank


def adapt(base: Base, arguments: Arguments) -> PeftModel:
    """Freeze the base and put the method on it; the projector trains along unless it is frozen.

    Trained weights are float32 whatever the base's dtype, so that small updates are not lost. The projector of a newly
    put together LLaVA goes into the run folder even when it is frozen: nothing else keeps it.

    Raises:
        UserError: the options do not fit the method or the model.
    """
    method = arguments.method
    frozen = arguments.model.freeze_mm_mlp_adapter
    kept = not frozen or arguments.model.vision_tower is not None
    options = method.options((PROJECTOR,) if kept else None)
    try:
        matched = method.matched()
        if matched is not None:
            other, other_options = matched
            shapes = adapted_shapes(base.model, METHODS[other].build(other_options))
            target = count_adapter(other, other_options, shapes)
            options = replace(options, r=match_rank(method.method, options, shapes, target))
        config = METHODS[method.method].build(options)
        config.task_type = "CAUSAL_LM"
        adapted_shapes(base.model, config)  # refuses targets that match nothing, in words
        model = get_peft_model(base.model, config)
    except (ValueError, TypeError, re.error) as error:
        raise UserError(f"--method {method.method}: {' '.join(str(error).split())}") from error
    assert isinstance(model, PeftModel)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            parameter.requires_grad = not (frozen and PROJECTOR in name)
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
