"""One run's needs against what there is: memory at the peak of a step, disk for its checkpoints.

In: the run's arguments. Out: findings. The model is outlined from its config; no weights and no data are read, so the
longest batch that the arguments allow is assumed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from llava_teamlora.doctor.findings import GIB, Finding
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.training.outlook.estimate import weight_rows
from llava_teamlora.training.outlook.memory import Estimate, estimate_memory, setup_of
from llava_teamlora.training.outlook.plan import outline_run
from llava_teamlora.training.outlook.rehearsal import BatchShape
from llava_teamlora.tuners.budget import count_trainable

_BESIDE = 64 * 2**20
"""Tokenizer, configs, logs: room left for them."""


def check_run(arguments: Arguments) -> tuple[list[Finding], Estimate]:
    """Findings about this very run, and the estimate of its memory.

    Args:
        arguments: of the run.

    Raises:
        UserError: a model that is not there, or that the options do not fit.
    """
    training = arguments.training
    batch = BatchShape(training.per_device_train_batch_size, training.model_max_length)
    outline = outline_run(arguments, setup_of(arguments, batch).dtype)
    vision = getattr(outline.base.model.config, "vision_config", None)
    if vision is not None:
        sides = (vision.image_size,) * 2 if isinstance(vision.image_size, int) else tuple(vision.image_size)
        batch = BatchShape(batch.samples, batch.tokens, batch.samples, (3, *sides))
    setup = setup_of(arguments, batch)
    table = count_trainable(outline.model)
    states = next(row for row in weight_rows(outline.model, setup) if row.name == "optimizer states")
    whole = arguments.method.method == "full"
    weights = sum(p.numel() * p.element_size() for p in outline.model.parameters() if whole or p.requires_grad)
    checkpoint = weights + ((states.size_bytes or 0) + states.host_bytes) * setup.ways(1)
    disk = _disk(training.output_dir, weights, checkpoint, training.save_total_limit)
    estimate = estimate_memory(outline.model, setup)
    trains = Finding("ok", "trains", f"{table.trainable:,} of {table.base:,} parameters ({arguments.method.method})")
    return [trains, _memory(estimate), disk], estimate


def _memory(estimate: Estimate) -> Finding:
    there = f" of {estimate.device.total_bytes / GIB:.1f} on {estimate.device.name}" if estimate.device else ""
    found = f"{'' if estimate.complete else 'more than '}{estimate.total_bytes / GIB:.1f} GiB{there}, estimated for "
    found += f"{estimate.setup.batch.samples} x {estimate.setup.batch.tokens:,} tokens"
    if estimate.advice is not None and (said := estimate.advice.say(estimate.setup.checkpointing)):
        found += f"; {said}"
    return Finding("ok" if estimate.fits else "warning", "memory of this run", found, "; ".join(estimate.remedies))


def _disk(output_dir: str, weights: int, checkpoint: int, limit: int | None) -> Finding:
    """Checkpoints that are kept, one that is being written, and the finished run."""
    path = Path(output_dir).resolve()
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    kept = f"{limit + 1} checkpoints" if limit else "a checkpoint"
    need = ((limit or 0) + 1) * checkpoint + weights + _BESIDE
    found = f"{need / GIB:.2f} GiB for {kept} ({checkpoint / GIB:.2f} each) and the run; {free / GIB:.1f} free"
    if free < need:
        return Finding("problem", "disk of this run", found, "make room, or choose another --output_dir")
    if not limit:
        return Finding("warning", "disk of this run", found, "--save_total_limit 1: else every checkpoint is kept")
    return Finding("ok", "disk of this run", found)
