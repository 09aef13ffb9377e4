"""One training run, top to bottom: arguments -> data -> model -> train -> save.

In: the command line of ``llava-teamlora train``. Out: a run folder. What can be refused without the model is refused
before it is loaded, the rest before training starts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedModel, TrainerState, set_seed

from llava_teamlora.checkpoint import ADAPTER_FILE, RunCard, library_versions, read_run_card, write_run_card
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset, VisionFormat
from llava_teamlora.data.images import check_images
from llava_teamlora.data.records import Record, load_records
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError
from llava_teamlora.machine import peak_memory_mib
from llava_teamlora.models.build import Base, load_base
from llava_teamlora.models.fingerprint import base_fingerprint, file_sha256
from llava_teamlora.training.adapt import adapt, start_deepspeed
from llava_teamlora.training.arguments import Arguments
from llava_teamlora.training.command_line import parse_arguments
from llava_teamlora.training.folder import Start, adopt, find_start, last_checkpoint, prepare
from llava_teamlora.training.groups import check_parts
from llava_teamlora.training.preview import show_preview
from llava_teamlora.training.telemetry import check_telemetry
from llava_teamlora.training.trainer import LlavaTrainer
from llava_teamlora.tuners.budget import count_trainable

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect."""


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
    console = Console(quiet=not arguments.training.should_log, highlight=False, soft_wrap=True)
    _refuse_data_parallel(arguments)
    records, validation = _load_data(arguments, console)
    check_telemetry(arguments, records)
    identity = _identity(arguments)
    start = Start() if arguments.training.dry_run else find_start(arguments, identity)
    if start.finished:
        console.print(f"{arguments.training.output_dir}: this run is finished already; nothing to train")
        return 0

    set_seed(arguments.training.seed)
    start_deepspeed(arguments)
    base = load_base(arguments.model.base(), _dtype(arguments), arguments.model.attn_implementation)
    datasets = [_dataset(part, arguments, base, console) for part in (records, validation) if part]
    model = adapt(base, arguments)
    check_parts(model, arguments.training)
    table = count_trainable(model)
    console.print(str(table))
    if arguments.training.dry_run:
        show_preview(console, arguments.resolved(), datasets[0])
        return 0

    trainer = _trainer(model, base, datasets, _card(arguments, identity, table.trainable), arguments, start)
    if start.checkpoint is not None:
        console.print(f"Going on from {start.checkpoint}")
    if start.checkpoint is not None and _has_all_steps(start.checkpoint):
        _adopt(trainer, start.checkpoint, console)
        return 0
    _train(trainer, start.checkpoint)
    if trainer.state.global_step < trainer.state.max_steps and trainer.interruption.requested:
        again = "the same command again" + (" without --overwrite_output_dir" if start.overwrite else "")
        console.print(f"Interrupted at step {trainer.state.global_step}. Run {again} to go on.")
        return INTERRUPTED
    _finish(trainer, console)
    return 0


def _refuse_data_parallel(arguments: Arguments) -> None:
    """One process on several GPUs would train by nn.DataParallel: slow, and with another batch size than said."""
    visible = arguments.training.n_gpu
    if visible > 1:
        raise UserError(
            f"{visible} GPUs are visible to one process; start one process each (torchrun --nproc_per_node "
            f"{visible} -m llava_teamlora.cli train …), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )


def _trainer(
    model: PeftModel | PreTrainedModel,
    base: Base,
    datasets: list[ConversationDataset],
    card: RunCard,
    arguments: Arguments,
    start: Start,
) -> LlavaTrainer:
    """The trainer, once the output folder is ready."""
    if arguments.training.should_save:
        prepare(Path(arguments.training.output_dir), start)
    return LlavaTrainer(
        model=model,
        args=arguments.training,
        train_dataset=datasets[0],
        eval_dataset=datasets[1] if len(datasets) > 1 else None,
        data_collator=Collator(_pad_token_id(base)),
        processing_class=base.tokenizer,
        image_processor=base.image_processor,
        card=card,
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
        f"{data.data_path}: {len(records):,} conversations ({text_only:,} text-only), {len(validation):,} to validate; "
        f"{len(names):,} pictures in all",
    )
    return records, validation


def _identity(arguments: Arguments) -> dict[str, Any]:
    """What makes a run this run besides its arguments: content of data and base, number of processes."""
    data = arguments.data
    paths = {"data_sha256": data.data_path, "validation_data_sha256": data.validation_data_path}
    paths["projector_sha256"] = arguments.model.pretrain_mm_mlp_adapter
    paths["deepspeed_sha256"] = arguments.training.deepspeed if isinstance(arguments.training.deepspeed, str) else None
    start = arguments.method.adapter_name_or_path
    if start is not None:
        paths["start_sha256"] = str(Path(start) / ADAPTER_FILE)
        if not (Path(start) / ADAPTER_FILE).is_file():
            raise UserError(f"{start}: holds no {ADAPTER_FILE} (--adapter_name_or_path)")
    found: dict[str, Any] = {name: file_sha256(Path(path)) for name, path in paths.items() if path}
    base = arguments.model.base()
    if all(Path(name).is_dir() for name in (base.model, base.vision_tower) if name):
        found["base_fingerprint"] = base_fingerprint(base)
    return {**found, "processes": arguments.training.world_size}


def _dataset(records: list[Record], arguments: Arguments, base: Base, console: Console) -> ConversationDataset:
    aspect_ratio = arguments.data.image_aspect_ratio
    template = get_template(arguments.model.version)
    eos = base.tokenizer.eos_token
    if template.end not in (None, eos):
        raise UserError(
            f"--version {template.name} ends answers in {template.end!r}, but {arguments.model.model_name_or_path} in "
            f"{eos!r}: it would never learn to stop. Choose a template that fits the model"
        )
    dataset = ConversationDataset(
        records,
        template,
        base.tokenizer,
        arguments.training.model_max_length,
        VisionFormat(base.image_processor, base.image_token_id, base.tokens_per_image, aspect_ratio),
        arguments.data.image_folder,
    )
    _tell_truncation(dataset, console)
    return dataset


def _tell_truncation(dataset: ConversationDataset, console: Console) -> None:
    checked = dataset.check()
    if checked.truncated:
        console.print(
            f"{dataset.records[0].source}: {checked.truncated} of {checked.looked_at} conversations looked at are "
            f"longer than --model_max_length {dataset.max_length} and lose their end",
            style="yellow",
        )


def _dtype(arguments: Arguments) -> torch.dtype:
    training = arguments.training
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32


def _pad_token_id(base: Base) -> int:
    tokenizer: Any = base.tokenizer
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _card(arguments: Arguments, identity: dict[str, Any], trainable: int) -> RunCard:
    spec = arguments.model.base()
    return RunCard(
        method=arguments.method.method,
        base=spec,
        base_fingerprint=base_fingerprint(spec),
        version=arguments.model.version,
        image_aspect_ratio=arguments.data.image_aspect_ratio,
        arguments=arguments.resolved(),
        identity=identity,
        versions=library_versions(),
        results={"trainable_parameters": trainable},
    )


def _train(trainer: LlavaTrainer, checkpoint: Path | None) -> None:
    """Train; the clock of a resumed run starts where its checkpoint's stopped."""
    if checkpoint is not None:
        trainer.seconds_before = read_run_card(checkpoint).results["train_seconds"]
        if trainer.adalora is not None:
            trainer.adalora.resumed = checkpoint
    if trainer.telemetry is not None:
        trainer.telemetry.begin(checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UserError as error:
        # A data loader's worker hands its whole traceback over; the message stands at its end.
        message = str(error).rpartition("UserError: ")[2]
        last = last_checkpoint(trainer.args.output_dir)
        kept = f"; {last.name} is whole: mend it and run the same command again" if last else ""
        rank = f"process {trainer.args.process_index}: " if trainer.args.world_size > 1 else ""
        if trainer.args.process_index:
            print(f"\nerror: {rank}{message}", file=sys.stderr)  # cli speaks for the first process alone
        raise UserError(f"{rank}{message}{kept}") from error
    finally:
        trainer.interruption.restore()


def _has_all_steps(checkpoint: Path) -> bool:
    """Whether nothing is left to train: the run stopped between its last step and its end."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= state.max_steps


def _adopt(trainer: LlavaTrainer, checkpoint: Path, console: Console) -> None:
    """Finish a run whose last checkpoint has all steps (transformers would train one too many)."""
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    _refuse_diverged(trainer)
    if trainer.adalora is not None:  # its checkpoints keep pruned ranks, a finished run does not
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.adalora.load(checkpoint)
        trainer.save_model(str(trainer.args.output_dir))
    elif trainer.is_world_process_zero():
        adopt(checkpoint, Path(str(trainer.args.output_dir)))
    _write_results(trainer, read_run_card(checkpoint).results["train_seconds"], console)


def _finish(trainer: LlavaTrainer, console: Console) -> None:
    """Validate once more and save the run folder."""
    seconds = trainer.train_seconds
    output = str(trainer.args.output_dir)
    _refuse_diverged(trainer)
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    trainer.save_model(output)
    trainer.save_state()
    _write_results(trainer, seconds, console)


def _refuse_diverged(trainer: LlavaTrainer) -> None:
    """A run whose loss is not finite is never finished, however often it is gone on with."""
    loss = _last(trainer, "loss")
    if loss is not None and not math.isfinite(loss):
        raise UserError(
            f"{trainer.args.output_dir}: the loss is {loss}; lower --learning_rate or try --bf16 True, and start anew "
            "with --overwrite_output_dir True"
        )


def _last(trainer: LlavaTrainer, name: str) -> float | None:
    """The newest logged value of that name."""
    return next((entry[name] for entry in reversed(trainer.state.log_history) if name in entry), None)


def _write_results(trainer: LlavaTrainer, seconds: float, console: Console) -> None:
    """Write the run's card last of all: with it the run is finished."""
    results: dict[str, Any] = {
        **trainer.card.results,
        "steps": trainer.state.global_step,
        "train_loss": _last(trainer, "loss"),
        "validation_loss": _last(trainer, "eval_loss"),
        "train_seconds": round(seconds, 1),
        "peak_mem_mib": peak_memory_mib(),
    }
    output = str(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        write_run_card(output, replace(trainer.card, results=results))
    trainer.accelerator.wait_for_everyone()
    shown = ", ".join(f"{name} {value}" for name, value in results.items() if value is not None)
    console.print(f"Run folder: {output} ({shown})")
