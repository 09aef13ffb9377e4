"""Several processes as one run: how they come to know each other, and what they must agree on before they train.

In: arguments, and where each process would begin. Out: nothing, or a UserError that every process raises. How they are
started stands in docs/scaling.md.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from llava_teamlora.errors import UserError
from llava_teamlora.training.flags.arguments import Arguments, TrainingArguments
from llava_teamlora.training.folder import Start

_LAUNCHER = "torchrun --nproc_per_node N -m -- llava_teamlora.cli train …"
_SEEN_WITHIN_S = 60.0
"""Time after which a network file system shows every node a new file (its caches keep a folder's content half that)."""


def start_processes(arguments: Arguments) -> None:
    """Let DeepSpeed know its processes: ZeRO-3 splits weights while they are loaded (on CPU it would not know them).

    Raises:
        UserError: ``--deepspeed`` or ``--fsdp`` without a launcher that sets the processes up, FSDP as it cannot save
            what it trains, or telemetry that no node would hold.
    """
    training = arguments.training
    if training.fsdp:
        _check_fsdp(training)
    if training.save_on_each_node and training.routing_telemetry_steps:
        raise UserError(
            "--save_on_each_node leaves no node with all of --routing_telemetry_steps' figures: give the nodes one "
            "folder, or drop one of the two"
        )
    if not training.deepspeed:
        return
    if "RANK" not in os.environ:
        raise UserError(f"--deepspeed needs a launcher: {_LAUNCHER}")
    from deepspeed import comm  # pyright: ignore[reportMissingImports]  an extra

    if not comm.is_initialized():
        comm.init_distributed(dist_backend="gloo" if training.use_cpu else None)


def _check_fsdp(training: TrainingArguments) -> None:
    if training.world_size == 1:
        raise UserError(f"--fsdp splits a model over processes, and there is one: start more ({_LAUNCHER}), or drop it")
    settings: dict[str, Any] = getattr(training, "fsdp_plugin_args", None) or {}
    if settings.get("fsdp_version") != 2:
        raise UserError('--fsdp_config: only FSDP\'s version 2 is supported; take "version" out of it, or make it 2')
    kind = settings.get("state_dict_type", "FULL_STATE_DICT")
    if kind != "FULL_STATE_DICT":
        raise UserError(
            f"--fsdp_config: with state_dict_type {kind} no run folder would hold any weights: take it out of it, or "
            "make it FULL_STATE_DICT"
        )


def shard_by_layer(training: TrainingArguments, model: nn.Module) -> None:
    """Tell FSDP to split layer by layer, unless ``--fsdp_config`` says otherwise.

    Left to itself it looks for every kind of layer that the tower's and the language model's classes know of, and ends
    when one is not in use, as CLIP's text side.
    """
    settings: dict[str, Any] | None = getattr(training, "fsdp_plugin_args", None)
    if settings is None or settings.get("transformer_cls_names_to_wrap") or settings.get("min_num_params"):
        return
    layers = {type(module).__name__ for name, module in model.named_modules() if re.search(r"\blayers\.\d+$", name)}
    settings["transformer_cls_names_to_wrap"] = ",".join(sorted(layers))


def refuse_unsharded(training: TrainingArguments, sharded: bool) -> None:
    """accelerate splits models on accelerators only; elsewhere it would train DDP without a word.

    Args:
        training: arguments.
        sharded: whether FSDP is in use.

    Raises:
        UserError: it is not, and was asked for.
    """
    if training.fsdp and not sharded:
        raise UserError(
            f"--fsdp splits a model on GPUs only, not on {training.device.type!r}: drop it (DDP), or give --deepspeed "
            "scripts/zero3.json, which splits it there too"
        )


def agree_on_start(start: Start, output: str | Path) -> None:
    """Refuse to train when processes would begin in different places, as when nodes have folders of their own.

    Raises:
        UserError: on every process, saying which differ.
    """
    if start.finished:
        mine = "is finished"
    else:
        mine = "begins anew" if start.checkpoint is None else f"goes on from {start.checkpoint.name}"
    found = gather_object([mine])
    other = next((rank for rank, text in enumerate(found) if text != found[0]), None)
    if other is not None:
        raise UserError(
            f"{output}: process 0 {found[0]}, but process {other} {found[other]}: the nodes do not see the same "
            "folder. Name one that they share; or, with --save_on_each_node True, bring each node's checkpoint-N back "
            "to it"
        )


def check_output_folder(training: TrainingArguments) -> None:
    """Whether the nodes share the output folder must be as ``--save_on_each_node`` says, or checkpoints have holes.

    Raises:
        UserError: on every process, naming one that does not see the folder.
    """
    if training.world_size == 1:
        return
    token = gather_object([secrets.token_hex(8)])[0]
    probe = Path(training.output_dir) / f".{token}"
    if training.process_index == 0:
        probe.touch()
    torch.distributed.barrier()
    sees = _appears(probe, 0.0 if training.save_on_each_node else _SEEN_WITHIN_S)
    seen = gather_object([(training.local_process_index == 0, sees)])
    if training.process_index == 0:
        probe.unlink()
    several_nodes = sum(first for first, _ in seen) > 1
    blind = next((rank for rank, (_, sees) in enumerate(seen) if not sees), None)
    if blind is not None and not training.save_on_each_node:
        raise UserError(
            f"{training.output_dir}: process {blind} does not see the folder that process 0 writes to. Name a folder "
            "that all nodes share, or give --save_on_each_node True: each node then keeps its part of every checkpoint"
        )
    if blind is None and training.save_on_each_node and several_nodes:
        raise UserError(
            f"{training.output_dir}: is one folder on all nodes, and each would write the same files into it: drop "
            "--save_on_each_node"
        )


def complete_checkpoint(folder: Path) -> None:
    """Name DeepSpeed's state in a checkpoint that a node keeps for itself: it does so on the first node alone."""
    latest = folder / "latest"
    for state in folder.glob("global_step*"):
        if not latest.exists():
            latest.write_text(state.name)


def _appears(path: Path, seconds: float) -> bool:
    """Whether a file is there, now or within that time."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() >= end:
            return False
        time.sleep(0.2)
    return True
