#!/usr/bin/env python
"""A fair fight between the PEFT methods on the embedded base: `run` trains all cells, `report` makes the table.

Every method gets the same data, steps and (where it has a rank) number of trainable parameters, and its own learning
rate, chosen on validation data with seeds of their own: the best of one grid (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), extended
by up to two values while the best lies at its edge, then of the two rates half a step beside it. Then the method is
trained with every final seed and scored on that seed's test questions. A final seed decides training subset, order,
initialisation and test questions, the same for all methods, so that differences between methods are paired by seed.

--out gets settings.json, data/, cells/METHOD/…/result.json (or error.txt) and, from `report`, quality.json and
quality.md. Started again, `run` goes on: what has a result is skipped, what failed is tried once more. Ctrl-C loses
only the cells in progress.

The setting (how many pictures, conversations and steps, and which text tasks) was chosen with LoRA alone on
validation, before any other method was run in it. Rule for a text task: the untuned base stays under a blind guess, and
LoRA comes well above it; tasks that LoRA did not learn in the time are not in. Rule for the amounts: LoRA's mean at its
best rate of the grid lies between 70 and 80 %, so that a method can be better as well as worse, in half a minute.

examples:
  python benchmarks/quality.py run --out runs/quality
  python benchmarks/quality.py report --out runs/quality --json benchmarks/results/quality.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quality_cell import ROOT, UNTUNED, Cell, Settings, keep_settings, read_settings, record_failure, work
from quality_report import choose, write_report
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llava_teamlora.errors import UserError, nearest


@dataclass(frozen=True)
class Plan:
    """What a `run` is to do: which methods with which final seeds, in which folder, by how many processes."""

    out: Path
    settings: Settings
    methods: tuple[str, ...]
    seeds: int
    workers: int

    def cells(self) -> list[Cell]:
        """All cells known to be needed by now, in the order of doing; more follow when rates are chosen."""
        selection: list[Cell] = []
        final = [Cell(UNTUNED, "test", seed, None) for seed in range(self.seeds)]
        for method in self.methods:
            choice = choose(self.out, self.settings, method)
            seeds = self.settings.selection_seeds
            selection += [Cell(method, "validation", seed, index) for index in choice.tried for seed in seeds]
            if choice.settled and choice.index is not None:
                final += [Cell(method, "test", seed, choice.index) for seed in range(self.seeds)]
        return selection + sorted(final, key=lambda cell: cell.seed)  # seed by seed, so that pairs are soon complete

    def open(self) -> list[Cell]:
        """Those of them with neither result nor error."""
        return [cell for cell in self.cells() if cell.result(self.out) is None and not cell.failed(self.out)]

    def expected(self) -> int:
        """How many cells it will be if no grid needs an extension; two rates beside the best follow the grid."""
        a_method = (len(self.settings.grid()) + 2) * len(self.settings.selection_seeds) + self.seeds
        return len(self.methods) * a_method + self.seeds


class Worker:
    """A process of one thread that does cells one after another; started when needed, and again if it dies."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def do(self, cell: Cell) -> None:
        """Do one cell; its result or its error lies in its folder then."""
        process = self.process
        if process is None or process.poll() is not None:
            self.close()
            process = self.process = self._start()
        assert process.stdin is not None and process.stdout is not None
        answer = ""
        try:
            process.stdin.write(json.dumps(asdict(cell)) + "\n")
            process.stdin.flush()
            answer = next((line for line in process.stdout if line.strip() in ("ok", "failed")), "")
        except OSError:
            pass  # it died: the same as no answer
        if not answer and not self.stopped:
            record_failure(self.out, cell, f"the worker process ended with status {process.wait()}")

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).resolve()), "work", "--out", str(self.out)]
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with (self.out / "workers.log").open("a") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path},
                text=True,
                start_new_session=True,  # a Ctrl-C is for this program, which then ends its workers
            )

    def stop(self) -> None:
        """Kill the process; half a cell leaves no result. :meth:`do` then returns."""
        self.stopped = True
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """Wait for the process that was stopped, or died, and close its pipes."""
        if self.process is not None:
            with suppress(OSError), self.process:  # a dead reader's pipe refuses what is left in it
                pass


def run(plan: Plan, console: Console) -> bool:
    """Do all cells; returns whether every one has a result."""
    out = plan.out
    keep_settings(out, plan.settings)
    for cell in plan.cells():
        (cell.folder(out) / "error.txt").unlink(missing_ok=True)  # one more chance
    crew = [Worker(out) for _ in range(plan.workers)]
    executor = ThreadPoolExecutor(plan.workers)
    try:
        with _progress(console) as progress:
            _do_all(plan, crew, executor, progress)
    finally:
        for worker in crew:
            worker.stop()
        executor.shutdown()
        for worker in crew:
            worker.close()
    failed = [cell.folder(out) for cell in plan.cells() if cell.result(out) is None]
    for folder in failed:
        reason = (folder / "error.txt").read_text(encoding="utf-8").strip().splitlines()[-1]
        console.print(f"failed: {folder}: {reason}", style="yellow")
    return not failed


def _do_all(plan: Plan, crew: Sequence[Worker], executor: ThreadPoolExecutor, progress: Progress) -> None:
    """Keep every worker busy until nothing is left."""
    idle = list(crew)
    running: dict[Future[None], tuple[Worker, Cell]] = {}
    task = progress.add_task("cells", total=plan.expected(), now="")
    while True:
        left = plan.open()
        busy = {cell for _, cell in running.values()}
        for cell in [cell for cell in left if cell not in busy][: len(idle)]:
            worker = idle.pop()
            running[executor.submit(worker.do, cell)] = (worker, cell)
        known = len(plan.cells())
        now = ", ".join(str(cell.folder(Path()).relative_to("cells")) for _, cell in running.values())
        progress.update(task, completed=known - len(left), total=max(plan.expected(), known), now=now)
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            idle.append(running.pop(future)[0])
            future.result()


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[now]}"),
    )
    # A cell takes half a minute: the speed is looked at over the whole run.
    return Progress(*columns, console=console, speed_estimate_period=3600, refresh_per_second=1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("run", help="train and score all cells, or those still missing")
    report = commands.add_parser("report", help="tables and JSON of what there is")
    for command in (start, report, commands.add_parser("work")):
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the benchmark's folder")
    start.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all")
    start.add_argument("--seeds", type=int, default=10, help="final seeds (default: 10)")
    start.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    default = Settings()
    small = start.add_argument_group("a smaller benchmark, to see that it runs")
    small.add_argument("--steps", type=int, default=default.steps)
    small.add_argument("--pictures", type=int, default=default.amounts.pictures)
    small.add_argument("--conversations", type=int, default=default.amounts.conversations)
    small.add_argument("--held_out", type=int, default=default.amounts.held_out)
    small.add_argument("--lowest", type=int, default=default.lowest, help="index of a learning rate: -14 is 3e-4")
    small.add_argument("--highest", type=int, default=default.highest, help="likewise: -6 is 3e-2")
    small.add_argument("--extensions", type=int, default=default.extensions)
    small.add_argument("--selection_seeds", type=int, nargs="+", default=default.selection_seeds)
    report.add_argument("--json", type=Path, metavar="FILE", help="where the results go (default: DIR/quality.json)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status: 0, 1 on a mistake or with cells missing, 130 after Ctrl-C."""
    arguments = parse(argv)
    console = Console(highlight=False, soft_wrap=True)
    out: Path = arguments.out.resolve()
    try:
        if arguments.command == "work":
            return work(out)
        if arguments.command == "report":
            print(write_report(out, read_settings(out), arguments.json or out / "quality.json"))
            return 0
        if arguments.seeds < 2 or arguments.workers < 1:
            raise UserError("--seeds must be at least 2 (an interval needs them), --workers at least 1")
        methods = _methods(arguments.methods)
        settings = _settings(arguments)
        plan = Plan(out, settings, methods, arguments.seeds, arguments.workers)
        return 0 if run(plan, console) else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130


def _settings(said: argparse.Namespace) -> Settings:
    default = Settings()
    amounts = {name: getattr(said, name) for name in ("pictures", "conversations", "held_out")}
    return replace(
        default,
        amounts=replace(default.amounts, **amounts),
        selection_seeds=tuple(said.selection_seeds),
        **{name: getattr(said, name) for name in ("steps", "lowest", "highest", "extensions")},
    )


def _methods(said: Sequence[str] | None) -> tuple[str, ...]:
    from llava_teamlora.tuners import METHODS

    for name in said or ():
        if name not in METHODS:
            raise UserError(f"--methods: {name!r} is not one of {', '.join(METHODS)}{nearest(name, METHODS)}")
    return tuple(dict.fromkeys(said or METHODS))


if __name__ == "__main__":
    raise SystemExit(main())
