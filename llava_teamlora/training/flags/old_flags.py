"""Flags that LLaVA's train.py has and we have under another name or not at all, and those that transformers dropped.

A literal table, old flag -> what becomes of it. Read from LLaVA's ``train/train.py`` (its three dataclasses) and from
``TrainingArguments`` of the transformers it was used with (4.31, 4.36, 4.37), compared with those of 5.17 and 5.23.
How a method is chosen (``--lora_enable`` and friends) is in llava_flags.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Old:
    """What becomes of an old flag.

    Attributes:
        why: its meaning today, for the notice; empty: not worth a line there.
        new: today's flag; None: none is needed.
        value: what today's flag is given; None: the old flag's own value.
        accepts: whether the above holds for a value (in lower case); any other is refused.
        instead: for the refusal: what to do.
    """

    why: str = ""
    new: str | None = None
    value: str | None = None
    accepts: Callable[[str], bool] = lambda value: True
    instead: str = ""


def is_true(value: str) -> bool:
    """Whether a flag's value means yes."""
    return value.lower() in ("true", "1", "yes", "y", "t")


def _only(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def is_off(value: str) -> bool:
    """Whether a flag's value means no."""
    return value.lower() in ("false", "0", "no", "n", "f")


def _never(value: str) -> bool:
    return False


def _share(value: str) -> bool:
    try:
        return 0 <= float(value) < 1
    except ValueError:
        return False


METHOD_FLAGS = ("lora_enable", "tune_mm_mlp_adapter", "freeze_backbone")
"""LLaVA's flags that together choose what trains."""

LORA_FLAGS = {"lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "lora_bias": "bias"}
"""LLaVA's names of an adapter's options."""

LLAVA: dict[str, Old] = {
    "lora_weight_path": Old("the adapter that training starts from", "adapter_name_or_path"),
    "lazy_preprocess": Old("samples are always prepared when they are needed"),
    "is_multimodal": Old("told from the model and the data"),
    "mm_use_im_start_end": Old(
        "pictures stand in the text without marks around them, as in LLaVA-1.5",
        accepts=is_off,
        instead="marks around pictures (<im_start>, <im_end>), which LLaVA-1.5 no longer uses, are not supported",
    ),
    "mm_use_im_patch_token": Old("the extra token is not needed: it only stood for a picture while text was prepared"),
    "mm_patch_merge_type": Old(
        "a picture's features are one flat row",
        accepts=_only("flat"),
        instead="that belongs to LLaVA-1.6's tiled pictures; LLaVA-1.5 has flat",
    ),
    "image_grid_pinpoints": Old(
        accepts=_only("", "none"), instead="that belongs to LLaVA-1.6's tiled pictures; use --image_aspect_ratio pad"
    ),
    "mpt_attn_impl": Old("only MPT models had it; --attn_implementation chooses the attention of all others"),
}
"""Flags that LLaVA's train.py alone has: one of them makes a command line LLaVA's (as METHOD_FLAGS and LORA_FLAGS)."""

_NATIVE = "PyTorch's own mixed precision is always used"
_NEVER_CHANGED = "it changed nothing in training"
_BATCHES = "every process reads its own samples; batches are not cut up and sent around. Leave it out"

TRANSFORMERS: dict[str, Old] = {
    "evaluation_strategy": Old("renamed in transformers 4.46", "eval_strategy"),
    "warmup_ratio": Old(
        "a number of steps below 1 is a share of all",
        "warmup_steps",
        accepts=_share,
        instead="it is a share of all steps, at least 0 and below 1; a number of steps is --warmup_steps",
    ),
    "save_safetensors": Old(
        "weights are always written so",
        accepts=is_true,
        instead="weights are always written as safetensors; drop it",
    ),
    "per_gpu_train_batch_size": Old("renamed", "per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Old("renamed", "per_device_eval_batch_size"),
    "no_cuda": Old("renamed", "use_cpu"),
    "use_mps_device": Old("an Apple GPU is found by itself"),
    "adafactor": Old(
        "now an optimizer among others", "optim", "adafactor", accepts=is_true, instead="it is True or False"
    ),
    "push_to_hub_model_id": Old("renamed", "hub_model_id"),
    "push_to_hub_token": Old("renamed", "hub_token"),
    "push_to_hub_organization": Old(accepts=_never, instead="write --hub_model_id ORGANIZATION/NAME"),
    "torchdynamo": Old("renamed", "torch_compile_backend"),
    "xpu_backend": Old("renamed", "ddp_backend"),
    "fp16_backend": Old(_NATIVE, accepts=_only("auto", "cuda_amp", "cpu_amp"), instead=f"{_NATIVE}; drop it"),
    "half_precision_backend": Old(_NATIVE, accepts=_only("auto", "cuda_amp", "cpu_amp"), instead=f"{_NATIVE}; drop it"),
    "fp16_opt_level": Old(f"it was Apex's; {_NATIVE}"),
    "jit_mode_eval": Old(_NEVER_CHANGED, accepts=is_off, instead="transformers 5 has it no more; drop it"),
    "use_ipex": Old(_NEVER_CHANGED, accepts=is_off, instead="it is part of PyTorch now; drop it"),
    "use_legacy_prediction_loop": Old(_NEVER_CHANGED, accepts=is_off, instead="transformers 5 has it no more; drop it"),
    "include_inputs_for_metrics": Old(_NEVER_CHANGED, accepts=is_off, instead="write --include_for_metrics inputs"),
    "include_tokens_per_second": Old(
        _NEVER_CHANGED,
        accepts=is_off,
        instead="write --include_num_input_tokens_seen all; tokens a second follow from it",
    ),
    "ray_scope": Old("it belonged to hyperparameter search with Ray"),
    "past_index": Old(_NEVER_CHANGED, accepts=_only("-1"), instead="transformers 5 has it no more; drop it"),
    "mp_parameters": Old("it was SageMaker's", accepts=_only(""), instead="SageMaker's launcher is not supported"),
    "tpu_num_cores": Old(accepts=_only("none"), instead="TPUs are not supported"),
    "tpu_metrics_debug": Old(_NEVER_CHANGED, accepts=is_off, instead="TPUs are not supported"),
    "sharded_ddp": Old(
        _NEVER_CHANGED, accepts=_only("", "false"), instead="FairScale's sharding is gone; use --deepspeed zero2.json"
    ),
    "fsdp_min_num_params": Old(
        _NEVER_CHANGED, accepts=_only("0"), instead="write --fsdp_config '{\"min_num_params\": N}'"
    ),
    "fsdp_transformer_layer_cls_to_wrap": Old(
        accepts=_only("none"), instead='write --fsdp_config \'{"transformer_layer_cls_to_wrap": ["NAME"]}\''
    ),
    "dispatch_batches": Old(_NEVER_CHANGED, accepts=_only("none"), instead=_BATCHES),
    "split_batches": Old(_NEVER_CHANGED, accepts=is_off, instead=_BATCHES),
    # Launchers hand it to every process; transformers reads the same number from LOCAL_RANK.
    "local_rank": Old(),
}
"""Flags of TrainingArguments that transformers dropped before 5.17."""


def _no_cuda_tf32(value: str) -> bool:
    return is_true(value) and not torch.cuda.is_available()


VALUES: dict[str, tuple[Callable[[str], bool], Old]] = {
    "tf32": (_no_cuda_tf32, Old("a way NVIDIA GPUs multiply, and none is here")),
    "optim": (_only("adamw_hf"), Old("the same optimizer, PyTorch's own", "optim", "adamw_torch")),
    "image_aspect_ratio": (
        lambda value: value.startswith("anyres"),
        Old(accepts=_never, instead="tiled pictures belong to LLaVA-1.6; LLaVA-1.5 has pad or square"),
    ),
    # YAML reads a bare `no` as False.
    "evaluation_strategy": (_only("false"), Old("renamed in transformers 4.46", "eval_strategy", "no")),
    "eval_strategy": (_only("false"), Old("", "eval_strategy", "no")),
    "save_strategy": (_only("false"), Old("", "save_strategy", "no")),
    "logging_strategy": (_only("false"), Old("", "logging_strategy", "no")),
}
"""Today's flags some of whose values are old: which, and what becomes of them."""

DEFAULTS: dict[str, object] = {
    "image_aspect_ratio": "square",
    "model_max_length": 512,
    "num_train_epochs": 3.0,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.0,
}
"""Where LLaVA's train.py, or the TrainingArguments under it, defaults to another training than ours.

Ours are what all scripts of LLaVA-1.5 say. ``version`` is not among them: LLaVA's ``v0`` only adds a padding token, and
its conversations are then vicuna_v1's, our default.
"""

TOWER_DEFAULTS: dict[str, object] = {"mm_vision_select_layer": -1, "mm_projector_type": "linear"}
"""The same, for a tower and projector that are newly put before a language model."""

LORA_DEFAULTS: dict[str, object] = {"r": 64, "alpha": 16.0, "dropout": 0.05}
"""The same, for ``--lora_enable True`` without ``--method``."""
