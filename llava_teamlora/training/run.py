"""One training run, top to bottom: arguments -> data -> model -> train -> save.

In: the command line of ``llava-teamlora train``. Out: a run folder. Everything that can be refused is refused before
the model is loaded.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from rich.console import Console
from rich.progress import Progress
from transformers import set_seed

from llava_teamlora.checkpoint import (
    RUN_FILE,
    RunCard,
    base_fingerprint,
    library_versions,
    read_run_card,
    write_run_card,
)
from llava_teamlora.constants import PROJECTOR
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset, VisionFormat
from llava_teamlora.data.images import check_images
from llava_teamlora.data.records import Record, load_records
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, load_base
from llava_teamlora.training.arguments import Arguments, parse_arguments
from llava_teamlora.training.preview import show_preview
from llava_teamlora.training.trainer import LlavaTrainer, last_checkpoint
from llava_teamlora.tuners import METHODS
from llava_teamlora.tuners.budget import adapted_shapes, count_adapter, count_trainable, match_rank

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect."""

_MAY_DIFFER_ON_RESUME = {
    "output_dir", "overwrite_output_dir", "dry_run", "resume_from_checkpoint", "report_to", "run_name",
    "logging_steps", "logging_first_step", "log_level", "disable_tqdm", "save_total_limit",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
}  # fmt: skip


def train(argv: Sequence[str] | None = None) -> int:
    """Run ``llava-teamlora train``.

    Args:
        argv: command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 130 after an interruption that left a checkpoint.

    Raises:
        UserError: anything in arguments, data or model that cannot work.
    """
    arguments = parse_arguments(argv)
    console = Console(quiet=not arguments.training.should_log)
    output = Path(arguments.training.output_dir)
    checkpoint = _find_checkpoint(arguments, output)

    records, validation = _load_data(arguments, console)

    set_seed(arguments.training.seed)
    _start_deepspeed(arguments)
    base = load_base(arguments.model.base(), _dtype(arguments), arguments.model.attn_implementation)
    datasets = [_dataset(part, arguments, base) for part in (records, validation) if part]
    for dataset in datasets:
        _tell_truncation(dataset, console)
    model = adapt(base, arguments)
    table = count_trainable(model)
    console.print(str(table), highlight=False, soft_wrap=True)
    if arguments.training.dry_run:
        show_preview(console, arguments.resolved(), datasets[0])
        return 0

    trainer = LlavaTrainer(
        model=model,
        args=arguments.training,
        train_dataset=datasets[0],
        eval_dataset=datasets[1] if validation else None,
        data_collator=Collator(_pad_token_id(base)),
        processing_class=base.tokenizer,
        image_processor=base.image_processor,
        card=_card(arguments, table.trainable),
    )
    if checkpoint is not None:
        console.print(f"Going on from {checkpoint}", highlight=False, soft_wrap=True)
    _train(trainer, checkpoint)
    if trainer.interruption.requested:
        console.print(f"Interrupted at step {trainer.state.global_step}. Run the same command again to go on.")
        return INTERRUPTED
    _finish(trainer, console)
    return 0


def _start_deepspeed(arguments: Arguments) -> None:
    """ZeRO-3 splits weights while they are loaded, so DeepSpeed must know its processes before (on CPU it does not).

    Raises:
        UserError: ``--deepspeed`` without the package, or without a launcher that sets the processes up.
    """
    if not arguments.training.deepspeed:
        return
    if "RANK" not in os.environ:
        raise UserError("--deepspeed needs a launcher: torchrun --nproc_per_node N -m llava_teamlora.cli train …")
    from deepspeed import comm

    if not comm.is_initialized():
        comm.init_distributed(dist_backend="gloo" if arguments.training.use_cpu else None)


def adapt(base: Base, arguments: Arguments) -> PeftModel:
    """Freeze the base and put the method on it; the projector trains along unless it is frozen.

    Trained weights are float32 whatever the base's dtype, so that small updates are not lost.

    Raises:
        UserError: the options do not fit the method or the model.
    """
    method = arguments.method
    options = method.options(None if arguments.model.freeze_mm_mlp_adapter else (PROJECTOR,))
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
    except ValueError as error:
        raise UserError(f"--method {method.method}: {' '.join(str(error).split())}") from error
    assert isinstance(model, PeftModel)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _find_checkpoint(arguments: Arguments, output: Path) -> Path | None:
    """Where to go on from: the flag's, the folder's last whole one, or nowhere. Refuses what would mix runs."""
    training = arguments.training
    asked = training.resume_from_checkpoint
    if asked and asked.lower() not in ("true", "false"):
        checkpoint = Path(asked)
        if not (checkpoint / RUN_FILE).is_file():
            raise UserError(f"{checkpoint}: is not a whole checkpoint folder (--resume_from_checkpoint)")
    elif training.overwrite_output_dir:
        if output.is_dir() and not training.dry_run and training.should_save:
            _clear(output)
        return None
    else:
        if (output / RUN_FILE).is_file() and not training.dry_run:
            raise UserError(
                f"{output}: a finished run lies here; choose another --output_dir, or start anew with "
                "--overwrite_output_dir True"
            )
        if output.exists() and not output.is_dir():
            raise UserError(f"{output}: is a file, not a folder (--output_dir)")
        checkpoint = last_checkpoint(output)
        if asked and asked.lower() == "true" and checkpoint is None:
            raise UserError(f"{output}: holds no whole checkpoint to resume from")
    if checkpoint is not None:
        _refuse_other_arguments(checkpoint, arguments)
    return checkpoint


def _clear(output: Path) -> None:
    """Remove a former run's files from its folder, and nothing that is not a run's."""
    if any(output.iterdir()) and not (output / RUN_FILE).is_file() and not list(output.glob("checkpoint-*")):
        raise UserError(f"{output}: holds no run; --overwrite_output_dir will not delete other files")
    shutil.rmtree(output)


def _refuse_other_arguments(checkpoint: Path, arguments: Arguments) -> None:
    """A resumed run must be the same run: other data or hyperparameters would give a mixture."""
    before = read_run_card(checkpoint).arguments
    now = arguments.resolved()
    names = (before.keys() | now.keys()) - _MAY_DIFFER_ON_RESUME
    changed = sorted(name for name in names if before.get(name) != now.get(name))
    if changed:
        shown = ", ".join(f"--{name} {before.get(name)!r} -> {now.get(name)!r}" for name in changed[:4])
        raise UserError(
            f"{checkpoint}: was made with other arguments ({shown}); repeat them to go on, or start anew with "
            "--overwrite_output_dir True or another --output_dir"
        )


def _load_data(arguments: Arguments, console: Console) -> tuple[list[Record], list[Record]]:
    """Read and check the data files and look at every picture's header."""
    data = arguments.data
    records = load_records(data.data_path)
    validation = load_records(data.validation_data_path) if data.validation_data_path else []
    if arguments.training.eval_strategy != "no" and not validation:
        raise UserError("--eval_strategy needs --validation_data_path")
    names = {image for record in (*records, *validation) for image in record.images}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Looking at pictures", total=len(names))
        check_images([*records, *validation], data.image_folder, progress=lambda n: progress.advance(task, n))
    text_only = sum(not record.images for record in records)
    console.print(
        f"{data.data_path}: {len(records):,} conversations ({text_only:,} text-only), {len(names):,} pictures",
        highlight=False,
        soft_wrap=True,
    )
    return records, validation


def _dataset(records: list[Record], arguments: Arguments, base: Base) -> ConversationDataset:
    aspect_ratio = arguments.data.image_aspect_ratio
    return ConversationDataset(
        records,
        get_template(arguments.model.version),
        base.tokenizer,
        arguments.training.model_max_length,
        VisionFormat(base.image_processor, base.image_token_id, base.tokens_per_image, aspect_ratio),
        arguments.data.image_folder,
    )


def _tell_truncation(dataset: ConversationDataset, console: Console) -> None:
    checked = dataset.check()
    if checked.truncated:
        console.print(
            f"{dataset.records[0].source}: {checked.truncated} of {checked.looked_at} conversations looked at are "
            f"longer than --model_max_length {dataset.max_length} and lose their end",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def _dtype(arguments: Arguments) -> torch.dtype:
    training = arguments.training
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32


def _pad_token_id(base: Base) -> int:
    tokenizer: Any = base.tokenizer
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _card(arguments: Arguments, trainable: int) -> RunCard:
    spec = arguments.model.base()
    return RunCard(
        method=arguments.method.method,
        base=spec,
        base_fingerprint=base_fingerprint(spec),
        version=arguments.model.version,
        image_aspect_ratio=arguments.data.image_aspect_ratio,
        arguments=arguments.resolved(),
        versions=library_versions(),
        results={"trainable_parameters": trainable},
    )


def _train(trainer: LlavaTrainer, checkpoint: Path | None) -> None:
    """Train; the clock of a resumed run starts where its checkpoint's stopped."""
    if checkpoint is not None:
        trainer.seconds_before = read_run_card(checkpoint).results["train_seconds"]
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        trainer.interruption.restore()


def _finish(trainer: LlavaTrainer, console: Console) -> None:
    """Validate once more, save the run folder, and write its card last: with it the run is finished."""
    seconds = trainer.train_seconds
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    output = str(trainer.args.output_dir)
    trainer.save_model(output)
    trainer.save_state()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    results: dict[str, Any] = {
        **trainer.card.results,
        "steps": trainer.state.global_step,
        "train_loss": losses[-1] if losses else None,
        "validation_loss": metrics.get("eval_loss"),
        "train_seconds": round(seconds, 1),
        "peak_mem_mib": peak_memory_mib(),
    }
    if results["train_loss"] is not None and not math.isfinite(results["train_loss"]):
        raise UserError(f"{output}: the loss is {results['train_loss']}; lower --learning_rate or try --bf16 True")
    if trainer.is_world_process_zero():
        write_run_card(output, replace(trainer.card, results=results))
    trainer.accelerator.wait_for_everyone()
    shown = ", ".join(f"{name} {value}" for name, value in results.items() if value is not None)
    console.print(f"Run folder: {output} ({shown})", highlight=False, soft_wrap=True)


def peak_memory_mib() -> int:
    """Peak resident memory of this process, or of the accelerator where there is one, in MiB."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 2**20)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
