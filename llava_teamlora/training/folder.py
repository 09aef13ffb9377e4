"""What lies in ``--output_dir``, and what that means for the run: begin, go on, or nothing left to do.

In: arguments and the run's identity. Out: :class:`Start`. Nothing is written here but by :func:`prepare`, which is
called when all else has been checked.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.checkpoint import RUN_FILE, RunCard, read_run_card
from llava_teamlora.constants import ROUTING_FILE
from llava_teamlora.errors import UserError
from llava_teamlora.training.arguments import Arguments

STAGING = ".incomplete"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TRAINER_STATE = "trainer_state.json"

# What a run writes into its folder, here and in transformers and peft.
_OWN_FILES = {
    RUN_FILE, STAGING, _TRAINER_STATE, "summary.json", "runs", "evaluation", "README.md", "training_args.bin",
    "adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", "config.json", ROUTING_FILE,
}  # fmt: skip
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""A whole model's, after full fine-tuning."""

# Flags that decide where and how a run is shown or kept, not what it computes.
_MAY_DIFFER = {
    "output_dir", "report_to", "run_name",
    "logging_steps", "logging_first_step", "log_level", "disable_tqdm", "save_total_limit",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory", "dataloader_persistent_workers",
}  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        checkpoint: whole checkpoint to go on from; None begins anew.
        finished: this very run has been finished here already.
        overwrite: the former run's files are to be removed first.
    """

    checkpoint: Path | None = None
    finished: bool = False
    overwrite: bool = False


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete ``checkpoint-N`` of a run, or None."""
    found = [
        (int(match.group(1)), path)
        for path in Path(folder).glob("checkpoint-*")
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / RUN_FILE).is_file()
    ]
    return max(found)[1] if found else None


def find_start(arguments: Arguments, identity: dict[str, Any]) -> Start:
    """Look into the output folder.

    Args:
        arguments: of the run to be.
        identity: as in :class:`RunCard`.

    Raises:
        UserError: another run lies there, or what ``--resume_from_checkpoint`` names is no whole checkpoint.
    """
    training = arguments.training
    output = Path(training.output_dir)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file, not a folder (--output_dir)")
    if training.overwrite_output_dir:
        if output.is_dir():
            _refuse_foreign_files(output)
        return Start(overwrite=True)
    if (output / RUN_FILE).is_file():
        _refuse_differences(output, read_run_card(output), arguments, identity)
        return Start(finished=True)
    checkpoint = _checkpoint(training.resume_from_checkpoint, output)
    if checkpoint is not None:
        _refuse_differences(checkpoint, read_run_card(checkpoint), arguments, identity)
    return Start(checkpoint)


def _checkpoint(asked: str | None, output: Path) -> Path | None:
    last = last_checkpoint(output)
    if asked is None:
        return last
    if asked.lower() == "false":
        if last is not None:
            raise UserError(
                f"{output}: holds {last.name}; drop --resume_from_checkpoint False to go on from it, or start anew "
                "with --overwrite_output_dir True"
            )
        return None
    if asked.lower() == "true":
        if last is None:
            raise UserError(f"{output}: holds no whole checkpoint to resume from")
        return last
    checkpoint = Path(asked)
    states = [*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*")]
    if not (checkpoint / RUN_FILE).is_file() or not (checkpoint / _TRAINER_STATE).is_file() or not states:
        raise UserError(f"{checkpoint}: is not a whole checkpoint folder (--resume_from_checkpoint)")
    return checkpoint


def _refuse_differences(folder: Path, card: RunCard, arguments: Arguments, identity: dict[str, Any]) -> None:
    """A resumed run must be the same run: other data or hyperparameters would give a mixture."""
    # A flag that the former run's version did not have yet was at its default.
    before, now = {**arguments.defaults(), **card.arguments, **card.identity}, {**arguments.resolved(), **identity}
    names = (before.keys() | now.keys()) - _MAY_DIFFER
    changed = sorted(name for name in names if before.get(name) != now.get(name))
    if changed:
        shown = ", ".join(f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"{folder}: was made otherwise ({shown}{more}); repeat the former arguments to go on, choose another "
            "--output_dir, or start anew with --overwrite_output_dir True"
        )


def _refuse_foreign_files(output: Path) -> None:
    """``--overwrite_output_dir`` removes what a run wrote; anything else in the folder stops it."""
    is_run = (output / RUN_FILE).is_file() or last_checkpoint(output) is not None
    foreign = sorted(path.name for path in output.iterdir() if not _is_own(path, is_run))
    if foreign:
        raise UserError(
            f"{output}: holds {foreign[0]!r}{' and more' if foreign[1:] else ''}, which no run wrote; "
            "--overwrite_output_dir deletes a former run only. Move it away or choose another --output_dir"
        )


def _is_own(path: Path, in_run: bool) -> bool:
    """Whether a run wrote this. Outside of a run's folder, names such as ``runs`` prove nothing."""
    if _CHECKPOINT.fullmatch(path.name):
        return (path / RUN_FILE).is_file()
    if in_run or path.name == STAGING:
        return path.name in _OWN_FILES or _WEIGHTS.fullmatch(path.name) is not None
    inside = [file for file in path.rglob("*") if not file.is_dir()]
    return path.name == "runs" and all(file.name.startswith("events.out.tfevents.") for file in inside)


def adopt(checkpoint: Path, output: Path) -> None:
    """Make a checkpoint's model the run's own, as when a run stopped between its last step and its end."""
    for path in checkpoint.iterdir():
        if path.name in _OWN_FILES - {RUN_FILE} or _WEIGHTS.fullmatch(path.name):
            shutil.copy2(path, output / path.name)


def prepare(output: Path, start: Start) -> None:
    """Make the output folder, without a former run's files if they are to be overwritten.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        for path in output.iterdir() if start.overwrite and output.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{output}: cannot be written to ({error.strerror}) (--output_dir)") from error
