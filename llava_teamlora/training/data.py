"""The data of a run: read, looked at, what cannot be used refused or left out, a share held out for validation.

In: arguments, and the checkpoint that a run goes on from. Out: :class:`RunData`, the same on every process and in every
leg of a run: which records a checkpoint's run left out is written in its run.yaml, and not looked for again.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import Progress

from llava_teamlora.data.check import Share, collect_records
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.images import check_images
from llava_teamlora.data.records import Record, load_records
from llava_teamlora.data.report import Report, check_files, from_ranges, skipped_json, to_ranges
from llava_teamlora.data.tokenize import check_end
from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically
from llava_teamlora.models.build import Base, takes_pictures
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.flags.arguments import Arguments
from llava_teamlora.training.folder import LEFT_OUT, REPORT_FILE, SKIPPED_FILE

_MOST_WORKERS = 16


@dataclass(frozen=True)
class RunData:
    """What a run trains and validates on.

    Attributes:
        train: tokenized by the outline's tokenizer, which is the base's.
        validation: None if there is nothing to validate on.
        left_out: for the run's identity: by data file's flag, the indices that were skipped, as text.
        written: names of the files that looking at the data has put into the run folder.
    """

    train: ConversationDataset
    validation: ConversationDataset | None
    left_out: dict[str, str] = field(default_factory=dict)
    written: frozenset[str] = frozenset()

    @property
    def datasets(self) -> list[ConversationDataset]:
        """One or both."""
        return [self.train] if self.validation is None else [self.train, self.validation]

    @property
    def records(self) -> list[Record]:
        """Of both."""
        return [record for dataset in self.datasets for record in dataset.records]

    @property
    def skipped(self) -> int:
        """Number of records left out."""
        return sum(len(from_ranges(text)) for text in self.left_out.values())


def load_run_data(arguments: Arguments, base: Base, checkpoint: Path | None, console: Console) -> RunData:
    """Read the data files and look at them: wholly if that is asked for, else at formats and pictures.

    Args:
        arguments: of the run.
        base: that the run adapts; its weights are not needed.
        checkpoint: that the run goes on from; its data have been looked at when it began.
        console: says what was found.

    Raises:
        UserError: records that cannot be used, unless they are to be skipped; nothing left; no validation data for
            ``--eval_strategy``.
    """
    data = arguments.data
    if arguments.training.eval_strategy != "no" and not data.has_validation:
        raise UserError("--eval_strategy and --eval_steps need --validation_data_path or --validation_split")
    paths = {"data_path": data.data_path, "validation_data_path": data.validation_data_path}
    paths = {flag: path for flag, path in paths.items() if path}
    whole = arguments.training.check_data or data.on_bad_sample == "skip"
    if whole and checkpoint is None:
        parts, left_out, written = _look_at_all(arguments, base, paths, console)
    else:
        if arguments.training.check_data:
            console.print(
                "--check_data True: not done again where a run goes on; its data are those that it began with, and "
                "formats and pictures are looked at as in every start. --dry_run True looks at everything",
                style="yellow",
            )
        parts, left_out = _look_again(arguments, paths, checkpoint, console)
        written = frozenset()
    train, validation = parts["data_path"], parts.get("validation_data_path", [])
    if data.validation_split is not None:
        train, validation = hold_out(train, data.validation_split, arguments.training.seed)
    datasets = [_samples(records, arguments, base) for records in (train, validation) if records]
    found = RunData(datasets[0], datasets[1] if validation else None, left_out, written)
    console.print(_described(found, data.data_path))
    for dataset in datasets:
        _tell_truncation(dataset, console)
    return found


def _samples(records: list[Record], arguments: Arguments, base: Base) -> ConversationDataset:
    _refuse_unseen_pictures(records, arguments)
    template = base.template(arguments.model.version)
    check_end(template, base.tokenizer)
    return ConversationDataset(
        records,
        template,
        base.tokenizer,
        arguments.training.model_max_length,
        base.vision_format(arguments.data.image_aspect_ratio),
        arguments.data.image_folder,
    )


def _tell_truncation(dataset: ConversationDataset, console: Console) -> None:
    checked = dataset.check()
    if checked.truncated:
        console.print(
            f"{dataset.records[0].source}: {checked.truncated} of {checked.looked_at} conversations looked at are "
            f"longer than --model_max_length {dataset.max_length} and lose their end",
            style="yellow",
        )


def hold_out(records: list[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Part records at random, the same way for the same seed.

    Returns:
        Records to train on and (``share`` of them, at least one) to validate on, each in their order.

    Raises:
        UserError: nothing would be left to train on.
    """
    number = max(1, round(share * len(records)))
    if number >= len(records):
        raise UserError(f"--validation_split {share} of {len(records)} records leaves none to train on")
    held = set(random.Random(seed).sample(range(len(records)), number))
    parts: tuple[list[Record], list[Record]] = ([], [])
    for position, record in enumerate(records):
        parts[position in held].append(record)
    return parts


def _described(found: RunData, path: str) -> str:
    text_only = sum(not record.images for record in found.train.records)
    pictures = len({name for record in found.records for name in record.images})
    validated = len(found.validation) if found.validation is not None else 0
    left_out = f"{found.skipped:,} left out, " if found.skipped else ""
    return (
        f"{path}: {len(found.train):,} conversations ({text_only:,} text-only), {validated:,} to validate; "
        f"{left_out}{pictures:,} pictures in all"
    )


Parts = dict[str, list[Record]]


def _look_again(
    arguments: Arguments, paths: dict[str, str], checkpoint: Path | None, console: Console
) -> tuple[Parts, dict[str, str]]:
    """Formats and pictures; in a run that goes on, of the records that its beginning kept."""
    left_out: dict[str, str] = {}
    if arguments.data.on_bad_sample == "skip" and checkpoint is not None:
        left_out = read_run_card(checkpoint).identity[LEFT_OUT]
    parts = {flag: _kept(path, from_ranges(left_out.get(flag, ""))) for flag, path in paths.items()}
    records = [record for part in parts.values() for record in part]
    _refuse_unseen_pictures(records, arguments)
    names = {name for record in records for name in record.images}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Looking at pictures", total=len(names))
        check_images(records, arguments.data.image_folder, progress=lambda n: progress.advance(task, n))
    return parts, left_out


def _kept(path: str, left_out: set[int]) -> list[Record]:
    if not left_out:
        return load_records(path)
    records, broken = collect_records(path)
    for finding in broken:
        if finding.index not in left_out:
            raise UserError(f"{finding}; it was usable when the run began")
    return [record for record in records if record.index not in left_out]


def _look_at_all(
    arguments: Arguments, base: Base, paths: dict[str, str], console: Console
) -> tuple[Parts, dict[str, str], frozenset[str]]:
    """Everything, with a report in the run folder."""
    skip = arguments.data.on_bad_sample == "skip"
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        good, report = check_files(
            list(dict.fromkeys(paths.values())),  # one may be both
            arguments.data.image_folder,
            lambda records: _samples(records, arguments, base),
            share=_share(arguments),
            workers=_workers(arguments),
            progress=progress,
        )
    files = _write(arguments, report, skip)
    output = Path(arguments.training.output_dir)
    console.print(report.table())
    console.print(f"All findings: {output / REPORT_FILE}")
    if report.bad and not skip:
        raise UserError(
            f"{report.refusal()}. All are listed in {output / REPORT_FILE}: mend them, or leave them out with "
            "--on_bad_sample skip"
        )
    for flag, path in paths.items():
        if not good[path]:
            raise UserError(f"{path}: none of its records can be used (--{flag}): {report.refusal()}")
    bad = {path: [finding.index for finding in report.bad if finding.file == path] for path in paths.values()}
    left_out = {flag: to_ranges(bad[path]) for flag, path in paths.items()} if skip else {}
    if report.bad:
        console.print(f"Left out: {len(report.bad):,} records, listed in {output / SKIPPED_FILE}", style="yellow")
    return {flag: good[path] for flag, path in paths.items()}, left_out, files


def _write(arguments: Arguments, report: Report, skip: bool) -> frozenset[str]:
    """Put report and list into the run folder, by one process; their names."""
    output = Path(arguments.training.output_dir)
    files = {REPORT_FILE: report.as_json()}
    if skip:
        files[SKIPPED_FILE] = skipped_json(report)
    if arguments.training.should_save:
        for name, text in files.items():
            write_atomically(output / name, text)
    return frozenset(files)


def _share(arguments: Arguments) -> Share:
    training = arguments.training
    return Share(training.process_index, training.world_size, gather_object)


def _workers(arguments: Arguments) -> int:
    """Processes beside this one for tokenizing: the machine's cores, shared by the run's processes on it."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", arguments.training.world_size))
    cores: Any = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(_MOST_WORKERS, len(cores) // max(1, here))


def _refuse_unseen_pictures(records: list[Record], arguments: Arguments) -> None:
    """A language model alone is trained on text alone."""
    with_picture = next((record for record in records if record.images), None)
    if with_picture is not None and not takes_pictures(arguments.model.base()):
        raise UserError(
            f"{with_picture.where}: has a picture, but {arguments.model.model_name_or_path} is a language model that "
            "sees none; add --vision_tower (e.g. openai/clip-vit-large-patch14-336), name a LLaVA, or leave such "
            "records out"
        )
