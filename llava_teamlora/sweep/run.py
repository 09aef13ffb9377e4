"""One sweep, top to bottom: grid -> checks -> preparations -> jobs -> results.

In: GRID.yaml. Out: its folder ``out``, with a run folder a cell, sweep.json, and results.md, .csv, .json and pictures.
Everything that can be refused is refused before the first run starts. Imports no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.report import draw_report, print_report
from llava_teamlora.files import write_atomically
from llava_teamlora.sweep.board import Board, clock
from llava_teamlora.sweep.children import Interruption, locked
from llava_teamlora.sweep.evaluation import Evaluation, read_evaluation
from llava_teamlora.sweep.flags import Checked, check_flags, refuse_missing_files
from llava_teamlora.sweep.grid import Grid, read_grid
from llava_teamlora.sweep.jobs import Job, make_jobs, refuse_changed
from llava_teamlora.sweep.places import Devices, make_places
from llava_teamlora.sweep.plots import draw, numeric_axes
from llava_teamlora.sweep.preparing import command, is_made, prepare
from llava_teamlora.sweep.reports import check_reports, write_reports
from llava_teamlora.sweep.results import as_json, gather, make_table
from llava_teamlora.sweep.runner import Runner
from llava_teamlora.sweep.state import DONE, FAILED, INTERRUPTED, WAITING, Record, Standing

INTERRUPTED_STATUS = 130


@dataclass(frozen=True)
class Sweep:
    """A grid that has been checked: what every cell will be told, and what it will be asked."""

    grid: Grid
    evaluation: Evaluation | None
    checked: Checked
    jobs: tuple[Job, ...]


def open_sweep(path: Path, devices: Devices, dry_run: bool) -> Sweep:
    """Read a grid and check all of it.

    Raises:
        UserError: anything in it that cannot work.
    """
    grid = read_grid(path)
    evaluation = read_evaluation(grid.evaluate, f"{path}, evaluate") if grid.evaluate else None
    if grid.untuned and evaluation is None:
        raise UserError(f"{path}, evaluate: untuned is given, but no benchmarks")
    check_reports(grid, evaluation)
    for preparation in grid.prepare:
        command(preparation)
    checked = check_flags(grid, devices.environment, assume_gpu=dry_run)
    jobs = make_jobs(grid, checked)
    refuse_changed(jobs, evaluation, path)
    return Sweep(grid, evaluation, checked, tuple(jobs))


def sweep(path: Path, devices: Devices, only: Sequence[str], dry_run: bool, console: Console) -> int:
    """Run ``llava-teamlora sweep``.

    Returns:
        Exit status: 0, 1 if a cell failed, 130 after an interruption.

    Raises:
        UserError: see :func:`open_sweep`; or a preparation fails, or another sweep has the folder.
    """
    opened = open_sweep(path, devices, dry_run)
    for note in opened.checked.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if dry_run:
        _show(opened, _chosen(Record(opened.grid, opened.jobs, opened.evaluation).standings, only, path), console)
        return 0
    places = make_places(devices, opened.checked.gpus, opened.grid.gpus_per_cell)
    with locked(opened.grid.out) as lock, Interruption() as interruption:
        record = Record(opened.grid, opened.jobs, opened.evaluation)
        chosen = _chosen(record.standings, only, path)
        record.write()
        with Board(console, record.standings, len(places)) as board:
            _begin(record, chosen, board)
            open_jobs = [standing for standing in chosen if standing.status == WAITING]
            if open_jobs and prepare(opened.grid, record, lock, board, interruption):
                _refuse_missing(opened, open_jobs)
                Runner(record, chosen, places, opened.evaluation, lock, board, interruption).run()
        return conclude(opened, record, console, bool(interruption.count))


def _chosen(standings: Sequence[Standing], only: Sequence[str], path: Path) -> list[Standing]:
    """The jobs that ``--only`` names, by folder or label; all without it."""
    if not only:
        return list(standings)
    found = [
        one for one in standings if any(fnmatchcase(name, p) for p in only for name in (one.job.name, one.job.label))
    ]
    if not found:
        names = ", ".join(one.job.name for one in standings[:5])
        raise UserError(f"--only {' '.join(only)}: matches no cell of {path}; they are {names}…")
    return found


def _begin(record: Record, chosen: Sequence[Standing], board: Board) -> None:
    """Say what is there already, and what is tried again."""
    done = sum(standing.status == DONE for standing in chosen)
    if done:
        board.say(f"{done} of {len(chosen)} cells are done already")
    again = [one.job.name for one in chosen if one.job.name in record.failed_before and one.status == WAITING]
    if again:
        board.say(f"tried again, after a failure: {', '.join(again)}", "yellow")


def _refuse_missing(opened: Sweep, standings: Sequence[Standing]) -> None:
    names = [standing.job.name for standing in standings if standing.job.train]
    refuse_missing_files({name: opened.checked.arguments[name] for name in names})
    if opened.evaluation is not None:
        opened.evaluation.refuse_missing_files()


def _show(opened: Sweep, chosen: Sequence[Standing], console: Console) -> None:
    """The plan of ``--dry_run``: every command that would be run."""
    record = Record(opened.grid, opened.jobs, opened.evaluation)
    for preparation in opened.grid.prepare:
        state = "made already" if is_made(preparation, record) else "would be run"
        console.print(f"prepare ({state}): {preparation.run}", markup=False)
    for standing in chosen:
        stage = standing.job.next_stage(opened.evaluation)
        what = "done" if stage is None else f"{stage.name}: llava-teamlora {shlex.join(stage.words)}"
        console.print(f"{standing.job.name}: {what}", markup=False)
    names = f", then {', '.join(opened.evaluation.benchmarks)}" if opened.evaluation else ""
    console.print(f"{len(chosen)} cells{names}; their flags are understood. Nothing was run.")


def conclude(opened: Sweep, record: Record, console: Console, interrupted: bool) -> int:
    """Write and show the results; returns the exit status."""
    out = opened.grid.out
    results = gather(record.standings, opened.evaluation)
    table = make_table(results, f"Sweep of {opened.grid.path.name}")
    files: dict[str, str | bytes] = {
        "results.md": draw_report(table, "md"),
        "results.csv": draw_report(table, "csv"),
        "results.json": as_json(results),
    }
    for axis in numeric_axes(results):
        picture = draw(results, axis)
        if picture is not None:
            files[f"by-{axis}.png"] = picture
    for name, content in files.items():
        write_atomically(out / name, content)
    print_report(table, console=console)
    console.print(f"written: {', '.join(str(out / name) for name in files)}", markup=False)
    if record.count(DONE) and not interrupted:
        write_reports(opened.grid, console)
    failed = [standing for standing in record.standings if standing.status == FAILED]
    for standing in failed:
        _tell_failure(standing, console)
    if interrupted:
        left = sum(standing.status in (WAITING, INTERRUPTED) for standing in record.standings)
        console.print(f"Interrupted; {left} cells are left. The same command goes on from here.", style="yellow")
        return INTERRUPTED_STATUS
    return 1 if failed else 0


def _tell_failure(standing: Standing, console: Console) -> None:
    status = standing.exit_status
    if status is None:
        what = f"failed: {standing.job.name} (could not be started)"
    else:
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        after = f"after {clock(standing.seconds)}"
        what = f"failed: {standing.job.name} ({how}, {after}); all of it is in {standing.job.log}"
    console.print(what, style="red", markup=False)
    for line in standing.reason:
        console.print(f"  {line}", markup=False, style="dim")
