"""What lies in ``--output_dir``, and what that means for the run: begin, go on, or nothing left to do.

In: arguments and the run's identity. Out: :class:`Start`. Nothing is written here but by :func:`prepare`, which is
called when all else has been checked.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.constants import ROUTING_FILE
from llava_teamlora.errors import UserError
from llava_teamlora.files import sync, sync_folder
from llava_teamlora.models.fingerprint import base_fingerprint, file_sha256
from llava_teamlora.models.original import PROJECTOR_FILE, original_parts
from llava_teamlora.run_card import ADAPTER_FILE, RUN_FILE, RunCard, read_run_card
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.training.validation import check_best_is_there

STAGING = ".incomplete"
REPORT_FILE = "data_report.json"
SKIPPED_FILE = "skipped.json"
CURVE_FILE = "loss_curve.png"
LEFT_OUT = "left_out"
"""Key of a run's identity: which records ``--on_bad_sample skip`` left out."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TRAINER_STATE = "trainer_state.json"

# What a run writes into its folder, here and in transformers and peft.
_OWN_FILES = {
    RUN_FILE, STAGING, _TRAINER_STATE, REPORT_FILE, SKIPPED_FILE, CURVE_FILE, "summary.json", "runs", "evaluation",
    "README.md", "training_args.bin",
    "adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", "config.json", ROUTING_FILE,
    PROJECTOR_FILE,
}  # fmt: skip
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""A whole model's, after full fine-tuning."""

# Flags that decide where and how a run is shown or kept, not what it computes.
MAY_DIFFER = {
    "output_dir", "report_to", "run_name", "cache_dir", "vision_cache", "logging_dir",
    "logging_steps", "logging_first_step", "log_level", "disable_tqdm", "save_total_limit",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory", "dataloader_persistent_workers",
    LEFT_OUT,  # follows from the data, and is taken over from the checkpoint
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
    found = _checkpoints(Path(folder))
    return found[-1][1] if found else None


def _checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Steps and folders of a run's complete checkpoints, oldest first."""
    return sorted(
        (int(match.group(1)), path)
        for path in run.glob("checkpoint-*")
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / RUN_FILE).is_file()
    )


def run_identity(arguments: Arguments) -> dict[str, Any]:
    """What makes a run this run besides its arguments: content of data and base, number of processes.

    Raises:
        UserError: a file it is made of is not there.
    """
    data = arguments.data
    paths = {"data_sha256": data.data_path, "validation_data_sha256": data.validation_data_path}
    paths["projector_sha256"] = arguments.model.pretrain_mm_mlp_adapter
    paths["deepspeed_sha256"] = arguments.training.deepspeed if isinstance(arguments.training.deepspeed, str) else None
    start = arguments.method.adapter_name_or_path
    if start is not None:
        paths["start_sha256"] = str(Path(start) / ADAPTER_FILE)
        if not (Path(start) / ADAPTER_FILE).is_file():
            raise UserError(f"{start}: holds no {ADAPTER_FILE} (--adapter_name_or_path)")
    missing = next((path for path in paths.values() if path and not Path(path).is_file()), None)
    if missing is not None:
        raise UserError(f"{missing}: {'is a folder, not a file' if Path(missing).is_dir() else 'no such file'}")
    found: dict[str, Any] = {name: file_sha256(Path(path)) for name, path in paths.items() if path}
    base = arguments.model.base()
    # A dry run reads no weights.
    here = all(Path(name).is_dir() for name in original_parts(base))
    if here and not arguments.training.dry_run:
        found["base_fingerprint"] = base_fingerprint(base)
    return {**found, "processes": arguments.training.world_size}


def refuse_other_base(checkpoint: Path, card: RunCard) -> None:
    """A hub model may change between two starts of a run; its content is known only when it is loaded.

    Raises:
        UserError: the checkpoint was trained on another base than the one loaded now.
    """
    before = read_run_card(checkpoint).base_fingerprint
    if before != card.base_fingerprint:
        raise UserError(
            f"{checkpoint}: was trained on a base with fingerprint {before[:12]}, but {card.base.model} now has "
            f"{card.base_fingerprint[:12]}; put the original base back, or start anew with --overwrite_output_dir True"
        )


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
        _refuse_weights_alone(checkpoint)
        _refuse_differences(checkpoint, read_run_card(checkpoint), arguments, identity)
        if training.load_best_model_at_end:
            check_best_is_there(output, json.loads((checkpoint / _TRAINER_STATE).read_text())["log_history"])
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
    if not (checkpoint / RUN_FILE).is_file() or not (checkpoint / _TRAINER_STATE).is_file():
        raise UserError(f"{checkpoint}: is not a whole checkpoint folder (--resume_from_checkpoint)")
    return checkpoint


def _refuse_weights_alone(checkpoint: Path) -> None:
    """transformers would go on from weights alone, with a fresh optimizer and schedule, and without a word."""
    if not [*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*")]:
        raise UserError(
            f"{checkpoint}: is not a whole checkpoint folder: it holds no state of the optimizer, so that the run "
            "cannot go on from there. Go on from another (--resume_from_checkpoint FOLDER), or start anew with "
            "--overwrite_output_dir True"
        )


def _refuse_differences(folder: Path, card: RunCard, arguments: Arguments, identity: dict[str, Any]) -> None:
    """A resumed run must be the same run: other data or hyperparameters would give a mixture."""
    # A flag that the former run's version did not have yet was at its default.
    before, now = {**arguments.defaults(), **card.arguments, **card.identity}, {**arguments.resolved(), **identity}
    names = (before.keys() | now.keys()) - MAY_DIFFER
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
    if path.name in (STAGING, REPORT_FILE, SKIPPED_FILE):  # a run that never began may have left them
        return True
    if in_run:
        return path.name in _OWN_FILES or _WEIGHTS.fullmatch(path.name) is not None or _is_half_written(path)
    inside = [file for file in path.rglob("*") if not file.is_dir()]
    return path.name == "runs" and all(file.name.startswith("events.out.tfevents.") for file in inside)


def install(whole: Path, run: Path) -> None:
    """Move a whole checkpoint from the staging folder into its run, with all of it on the disk before it has its name.

    Raises:
        OSError: the disk is full or failing.
    """
    sync_folder(whole)
    place = run / whole.name
    if place.exists():  # of an earlier leg, when a run goes on from an older checkpoint
        place.rename(whole.parent / "former")
    whole.rename(place)
    sync(run)
    shutil.rmtree(whole.parent)


def drop_abandoned(run: Path, before: int, written: Path) -> None:
    """Delete what another leg of the run left when this one went on from an older checkpoint.

    Args:
        run: its folder.
        before: step of the checkpoint before the one just written; that which the run went on from, if it is the first.
        written: the one just written. Nothing else of this leg lies behind ``before``.
    """
    _delete(run, [path for step, path in _checkpoints(run) if step > before and path != written])


def rotate(run: Path, limit: int | None, written: Path, best: Path | None) -> None:
    """Delete the oldest checkpoints of a run.

    Args:
        run: its folder.
        limit: checkpoints to keep (``--save_total_limit``), the best among them; None or 0 keeps all.
        written: the one just written, kept whatever the limit.
        best: kept likewise.
    """
    if not limit:
        return
    whole = [path for _, path in _checkpoints(run)]
    kept = {written, *(path for path in whole if path == best)}
    for path in reversed(whole):
        if len(kept) < limit:
            kept.add(path)
    _delete(run, [path for path in whole if path not in kept])


def _delete(run: Path, checkpoints: list[Path]) -> None:
    """Delete checkpoints. Each loses its name first: what is left of it is never taken for whole."""
    for path in checkpoints:
        path.rename(run / STAGING)
        shutil.rmtree(run / STAGING)


def adopt(checkpoint: Path, output: Path) -> None:
    """Make a checkpoint's model the run's own: the best one's, or the last one's of a run stopped before its end."""
    for path in checkpoint.iterdir():
        if path.name in _OWN_FILES - {RUN_FILE, _TRAINER_STATE} or _WEIGHTS.fullmatch(path.name):
            shutil.copy2(path, output / path.name)


def prepare(output: Path, start: Start, written: Collection[str] = ()) -> None:
    """Make the output folder, without a former run's files if they are to be overwritten.

    Args:
        output: the folder.
        start: how the run begins.
        written: names of files that this start of the program has put there.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        for path in _former(output, start):
            if path.name not in written:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{output}: cannot be written to ({error.strerror}) (--output_dir)") from error


def _former(output: Path, start: Start) -> list[Path]:
    """What is to be removed. First the card, without which what is left counts as no run."""
    if not output.is_dir():
        return []
    if start.overwrite:
        return sorted(output.iterdir(), key=lambda path: path.name != RUN_FILE)
    reports = (REPORT_FILE, SKIPPED_FILE) if start.checkpoint is None else ()
    return [path for path in output.iterdir() if path.name in (STAGING, *reports) or _is_half_written(path)]


def _is_half_written(path: Path) -> bool:
    """Whether a program that was killed has left this (see ``files.write_atomically``)."""
    return any(path.name.startswith(f".{name}.") for name in _OWN_FILES)
