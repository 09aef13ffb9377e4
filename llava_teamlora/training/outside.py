"""What a run leans on outside of itself: DeepSpeed's configuration, reporters, Liger, folders that libraries choose.

Looked at before anything is loaded, so that a mistake costs seconds. In: flags. Out: nothing, or an error in words.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from llava_teamlora.errors import UserError, nearest

_PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet-ml", "dagshub": "dagshub mlflow"}
"""Where the package is not called as the reporter is."""


def check_reporter(name: str | None) -> None:
    """Refuse a ``--report_to`` that is not known or not installed.

    Raises:
        UserError: with the command that installs it.
    """
    if name in (None, "none", "all"):
        return
    if name not in INTEGRATION_TO_CALLBACK:
        known = (*sorted(INTEGRATION_TO_CALLBACK), "all", "none")
        raise UserError(f"--report_to {name!r} is not one of {', '.join(known)}{nearest(name, known)}")
    if name not in get_available_reporting_integrations():
        package = _PACKAGES.get(name, name)
        raise UserError(
            f"--report_to {name}: the package is not installed; pip install {package}, or --report_to tensorboard, "
            "which needs nothing more (--report_to none: nothing at all)"
        )


def check_deepspeed(setting: str | dict[str, Any] | None, own_groups: bool) -> None:
    """Refuse a DeepSpeed configuration that cannot be read, or that would quietly train otherwise than the flags say.

    Args:
        setting: ``--deepspeed``: a file, relative to the working directory, or what it holds.
        own_groups: whether some part has a learning rate or weight decay of its own.

    Raises:
        UserError: naming the section and the remedy.
    """
    if not setting:
        return
    content = _read(setting)
    if own_groups and content.get("optimizer"):
        raise UserError(
            f'{_name(setting)}: its "optimizer" section would leave --mm_projector_lr, --group_lr and '
            "--group_weight_decay without effect: take the section out (see scripts/zero3.json), or drop these flags"
        )
    if content.get("scheduler"):
        kind = content["scheduler"].get("type", "its own") if isinstance(content["scheduler"], dict) else "its own"
        raise UserError(
            f'{_name(setting)}: its "scheduler" section ({kind}) would take the place of --lr_scheduler_type and '
            "--warmup_steps: take the section out (see scripts/zero3_offload.json)"
        )


def check_batches(config: Any) -> None:
    """Refuse accelerate's ways to cut a batch up: they cut every tensor into as many parts, pictures too.

    Args:
        config: accelerate's, as ``--accelerator_config`` has been read.

    Raises:
        UserError: it asks for one of them.
    """
    for name in ("dispatch_batches", "split_batches"):
        if getattr(config, name, None):
            raise UserError(f"--accelerator_config: {name} would tear samples from their pictures; leave it out")


def check_fused_loss(arguments: Any) -> None:
    """Refuse ``--use_liger_kernel True`` where it cannot work (see fused_loss.py).

    Args:
        arguments: the run's TrainingArguments.

    Raises:
        UserError: the package or a GPU is missing, or weights are sharded.
    """
    if not arguments.use_liger_kernel:
        return
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError('--use_liger_kernel True: liger-kernel is not installed; pip install "llava-teamlora[kernels]"')
    if (arguments.use_cpu or not torch.cuda.is_available()) and not arguments.dry_run:
        raise UserError("--use_liger_kernel True needs a CUDA device: leave it out to train without one")
    if arguments.fsdp or is_deepspeed_zero3_enabled():
        raise UserError(
            "--use_liger_kernel True reads the weight of lm_head, of which FSDP and ZeRO-3 leave each process a shard: "
            "leave it out, or use ZeRO-2"
        )


def _name(setting: str | dict[str, Any]) -> str:
    return "--deepspeed" if isinstance(setting, dict) or setting.lstrip().startswith("{") else setting


def _read(setting: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(setting, dict):
        return setting
    inline = setting.lstrip().startswith("{")
    path = Path(setting)
    if not inline and not path.is_file():
        raise UserError(
            f"{setting}: no such file (--deepspeed; looked for from {Path.cwd()}). scripts/ of this repository has "
            "zero2.json, zero3.json, zero2_offload.json and zero3_offload.json"
        )
    try:
        content = json.loads(setting if inline else path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{_name(setting)}: is no JSON ({error}) (--deepspeed)") from error
    if not isinstance(content, dict):
        raise UserError(f"{_name(setting)}: expected a JSON object (--deepspeed)")
    return content


def choose_folders(cache_dir: str | None, logging_dir: str | None) -> None:
    """Tell the libraries where to put downloads and TensorBoard's files; they take it from nowhere else."""
    if cache_dir is not None:
        huggingface_hub.constants.HF_HUB_CACHE = os.path.expanduser(cache_dir)
    if logging_dir is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = os.path.expanduser(logging_dir)
