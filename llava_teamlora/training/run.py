"""One training run, top to bottom: arguments -> data -> model -> train -> save.

In: the command line of ``llava-teamlora train``. Out: a run folder. What can be refused without the model is refused
before it is loaded, the rest before training starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedModel, set_seed

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, load_base
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.run_card import RunCard, library_versions, read_run_card
from llava_teamlora.training.adapt import adapt, base_dtype, check_adaptable
from llava_teamlora.training.data import RunData, load_run_data
from llava_teamlora.training.feeding import check_feeding, collator, equip, packed
from llava_teamlora.training.finish import finish, has_all_steps, last_step
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.training.folder import (
    LEFT_OUT,
    Start,
    find_start,
    last_checkpoint,
    prepare,
    refuse_other_base,
    run_identity,
)
from llava_teamlora.training.groups import check_parts
from llava_teamlora.training.outlook.plan import outline_run, show_plan
from llava_teamlora.training.outlook.preview import show_preview
from llava_teamlora.training.outside import choose_folders
from llava_teamlora.training.processes import agree_on_start, check_output_folder, start_processes
from llava_teamlora.training.telemetry import check_telemetry
from llava_teamlora.training.trainer import LlavaTrainer
from llava_teamlora.tuners.budget import ParameterTable, count_trainable

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
    if arguments.notice:
        console.print(arguments.notice, markup=False)
    choose_folders(arguments.model.cache_dir, arguments.training.logging_dir)
    _refuse_data_parallel(arguments)
    check_feeding(arguments)
    check_adaptable(arguments)
    identity = run_identity(arguments)
    start_processes(arguments)
    start = Start() if arguments.training.dry_run else find_start(arguments, identity)
    agree_on_start(start, arguments.training.output_dir)
    if start.finished:
        console.print(f"{arguments.training.output_dir}: this run is finished already; nothing to train")
        return 0
    outline = outline_run(arguments, base_dtype(arguments))
    data = load_run_data(arguments, outline.base, start.checkpoint, console)
    check_telemetry(arguments, data.train.records)
    check_parts(outline.model, arguments.training)
    table = count_trainable(outline.model)
    console.print(str(table))
    show_plan(console, outline, arguments, data.train)
    if arguments.training.dry_run:
        show_preview(console, arguments, data.train, collator(outline.base))
        return 0

    set_seed(arguments.training.seed)
    device = str(arguments.training.device)
    base = load_base(arguments.model.base(), base_dtype(arguments), arguments.model.attn_implementation, device)
    equip(data.datasets, base, arguments, base_dtype(arguments), console)
    model = adapt(base, arguments)
    if arguments.training.should_save:
        prepare(Path(arguments.training.output_dir), start, data.written)
    check_output_folder(arguments.training)
    card = _card(arguments, {**identity, LEFT_OUT: data.left_out}, table)
    trainer = _trainer(model, base, data, card, arguments, console)
    if start.checkpoint is not None:
        refuse_other_base(start.checkpoint, card)
        console.print(f"Going on from {start.checkpoint}")
    if start.checkpoint is not None and has_all_steps(start.checkpoint):
        finish(trainer, data.skipped, console, start.checkpoint)
        return 0
    _train(trainer, start.checkpoint)
    unfinished = trainer.state.global_step < trainer.state.max_steps
    if unfinished and trainer.interruption.requested:
        again = "the same command again" + (" without --overwrite_output_dir" if start.overwrite else "")
        console.print(f"Interrupted at step {trainer.state.global_step}. Run {again} to go on.")
        return INTERRUPTED
    if unfinished:
        raise UserError(
            f"{arguments.training.output_dir}: training ended after {trainer.state.global_step} of "
            f"{trainer.state.max_steps} steps, as if there were no more batches to train on; the run is not finished"
        )
    finish(trainer, data.skipped, console)
    return 0


def _refuse_data_parallel(arguments: Arguments) -> None:
    """One process on several GPUs would train by nn.DataParallel: slow, and with another batch size than said."""
    visible = arguments.training.n_gpu
    if visible > 1:
        raise UserError(
            f"{visible} GPUs are visible to one process; start one process each (torchrun --nproc_per_node "
            f"{visible} -m -- llava_teamlora.cli train …), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )


def _trainer(
    model: PeftModel | PreTrainedModel,
    base: Base,
    data: RunData,
    card: RunCard,
    arguments: Arguments,
    console: Console,
) -> LlavaTrainer:
    return LlavaTrainer(
        model=model,
        args=arguments.training,
        train_dataset=packed(data.train, arguments, console) if arguments.training.packing else data.train,
        eval_dataset=data.validation,
        data_collator=collator(base),
        processing_class=base.tokenizer,
        image_processor=base.image_processor,
        card=card,
    )


def _card(arguments: Arguments, identity: dict[str, Any], parameters: ParameterTable) -> RunCard:
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
        results={"trainable_parameters": parameters.trainable, "base_parameters": parameters.base},
    )


def _train(trainer: LlavaTrainer, checkpoint: Path | None) -> None:
    """Train; clock and counts of a resumed run begin where its checkpoint's stood."""
    if checkpoint is not None:
        trainer.go_on(read_run_card(checkpoint).results, last_step(checkpoint))
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
            # At once: the others end as soon as they miss this process, and the launcher then ends this one.
            print(f"\nerror: {rank}{message}{kept}", file=sys.stderr)
            raise SystemExit(1) from error
        raise UserError(f"{rank}{message}{kept}") from error
    finally:
        trainer.interruption.restore()
