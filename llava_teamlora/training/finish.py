"""The end of a run: its model, its log, its curve, its figures and, last of all, the card that calls it finished.

In: a trainer that has done all its steps, or a checkpoint that has. Out: the run folder. Whatever goes wrong on the way
leaves a folder without ``run.yaml``: the same command goes on from the last checkpoint and finishes it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from transformers import TrainerState

from llava_teamlora.errors import UserError, is_lost_process
from llava_teamlora.files import sync_folder, write_atomically
from llava_teamlora.models.pretrained import first_line
from llava_teamlora.run_card import read_run_card, write_run_card
from llava_teamlora.training.curve import draw_curve
from llava_teamlora.training.folder import CURVE_FILE, adopt, last_checkpoint
from llava_teamlora.training.trainer import LlavaTrainer
from llava_teamlora.training.validation import best_checkpoint, best_validation, check_best_is_there


def last_step(checkpoint: Path) -> int:
    """Step after which a checkpoint was written."""
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).global_step


def has_all_steps(checkpoint: Path) -> bool:
    """Whether nothing is left to train: the run stopped between its last step and its end."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= state.max_steps


def finish(trainer: LlavaTrainer, skipped: int, console: Console, checkpoint: Path | None = None) -> None:
    """Make the run folder whole.

    Args:
        trainer: after its last step; or, with ``checkpoint``, before any.
        skipped: records left out of the data.
        console: shows the figures.
        checkpoint: with all steps; transformers would train one too many if it went on from there.

    Raises:
        UserError: the loss is not finite, the best checkpoint is gone, or the folder cannot be written.
    """
    output = Path(str(trainer.args.output_dir))
    if checkpoint is None:
        progress = trainer.progress()
    else:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        progress = read_run_card(checkpoint).results
    _refuse_diverged(trainer)
    source = checkpoint
    if trainer.args.load_best_model_at_end:
        check_best_is_there(output, trainer.state.log_history)
        source = best_checkpoint(output, trainer.state.log_history)
    results = {**trainer.card.results, **_figures(trainer, progress)}
    if skipped:
        results["skipped_records"] = skipped
    try:
        _save_model(trainer, output, source)
        trainer.save_state()
        if trainer.args.should_save:
            _draw(trainer, output, console)
            sync_folder(output, deep=False)
            write_run_card(output, replace(trainer.card, results=results))
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and is_lost_process(error):
            raise
        last = last_checkpoint(output)
        kept = f"{last.name} is whole: make room and run the same command again" if last else "there is no checkpoint"
        raise UserError(f"{output}: the run's end cannot be saved ({first_line(error)}); {kept}") from error
    trainer.accelerator.wait_for_everyone()
    console.print(_table(results))
    console.print(f"Run folder: {output}")


def _save_model(trainer: LlavaTrainer, output: Path, source: Path | None) -> None:
    """The trainer's model, or a checkpoint's."""
    if source is None:
        trainer.save_model(str(output))
    elif trainer.adalora is not None:  # its checkpoints keep pruned ranks, a finished run does not
        trainer.adalora.config.rank_pattern = None
        trainer._load_from_checkpoint(str(source))
        trainer.adalora.load(source)
        trainer.save_model(str(output))
    elif trainer.args.should_save:
        adopt(source, output)


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


def _figures(trainer: LlavaTrainer, progress: dict[str, Any]) -> dict[str, Any]:
    """What the run did: all its legs, all its processes; rates include validation and saving."""
    seconds, processes = progress["train_seconds"], trainer.args.world_size
    best = best_validation(trainer.state.log_history)
    names = ("samples", "tokens", "image_tokens", "trained_tokens")
    loss = _last(trainer, "loss")  # of the last --logging_steps steps
    counts = {"steps": trainer.state.global_step, **{name: progress[name] for name in names}}
    rated = ("steps", "samples", "tokens", "trained_tokens")
    rates = {f"{name}_per_second": round(counts[name] / max(seconds, 1e-3), 2) for name in rated}
    return {
        **counts,
        "epochs": round(trainer.state.epoch or 0.0, 3),
        "train_seconds": seconds,
        **rates,
        "processes": processes,
        "tokens_per_second_per_process": round(rates["tokens_per_second"] / processes, 2),
        "train_loss": loss if loss is not None else _last(trainer, "train_loss"),  # a run too short to log: its mean
        "validation_loss": _last(trainer, "eval_loss"),
        "best_validation_loss": best.loss if best is not None else None,
        "best_step": best.step if best is not None else None,
        "peak_mem_mib": progress["peak_mem_mib"],
    }


def _draw(trainer: LlavaTrainer, output: Path, console: Console) -> None:
    picture = draw_curve(trainer.state.log_history, output.resolve().name)
    if picture is None:
        console.print(f"No {CURVE_FILE}: matplotlib is not installed (pip install matplotlib)", style="yellow")
    else:
        write_atomically(output / CURVE_FILE, picture)


def _table(results: dict[str, Any]) -> Table:
    table = Table(title="Training", title_justify="left", show_header=False)
    for name, value in results.items():
        if value is not None:
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:,.5g}")
    return table
