"""``llava-teamlora bench``: speed and memory of every way of computing an adapted layer, side by side.

Imports no torch until a bench runs. A new bench is a settings class, a module with ``run``, and a line in BENCHES.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from llava_teamlora.bench import figure
from llava_teamlora.bench.settings import DecodeSettings, MlpSettings, Settings, StepSettings, TraceSettings
from llava_teamlora.bench.whole_settings import MemorySettings, TrainSettings

if TYPE_CHECKING:
    from llava_teamlora.bench.timed import Progress


class Bench(NamedTuple):
    """One bench.

    Attributes:
        help: in a line.
        description: what it measures and how to read it.
        examples: command lines.
        settings: class whose fields are its flags.
        module: has ``run(settings, progress) -> Found``.
    """

    help: str
    description: str
    examples: str
    settings: type[Settings]
    module: str


_TIMED = """
On a CPU it counts this process's computing on one thread, so that other programs hardly matter; on a GPU, events.
Every way runs once a round, in random order; figures are ratios within a round, median and quartiles. A twin of the
reference says what a ratio of 1 looks like here: if it is more than 5 % off, the rounds are doubled, and if it still
is, the rows are marked inconclusive. Errors against a loop in float64 stand in the same table.
"""

BENCHES: dict[str, Bench] = {
    "step": Bench(
        "a linear, forward and backward",
        "Time a linear's forward and backward pass: frozen, with peft's LoRA, the published loops, batched, ours."
        + _TIMED,
        "llava-teamlora bench step\n"
        "llava-teamlora bench step --total_rank 128 --k 1 2 4 8 16 --dtype bf16 --out results\n"
        "llava-teamlora bench step --device cuda --d_in 4096 --d_out 11008 --tokens 11200",
        StepSettings,
        "llava_teamlora.bench.step",
    ),
    "mlp": Bench(
        "a SwiGLU MLP, forward and backward, with and without checkpointing",
        "Time a LLaMA's MLP with all three linears adapted, with and without gradient checkpointing." + _TIMED,
        "llava-teamlora bench mlp\n"
        "llava-teamlora bench mlp --device cuda --d_in 4096 --d_out 11008 --tokens 11200 --dtype bf16",
        MlpSettings,
        "llava_teamlora.bench.mlp",
    ),
    "decode": Bench(
        "one token through a stack of MLPs, or tokens a second of a whole LLaVA",
        "Time decoding: one token through MLPs whose weights exceed the last-level cache; packed weights beside.\n"
        "With --model SIZE: a whole, randomly initialised LLaVA that answers in a cache of fixed size, on CUDA as a\n"
        "graph; ratios are then of tokens a second." + _TIMED,
        "llava-teamlora bench decode\nllava-teamlora bench decode --tokens 8 --k 4 8\n"
        "llava-teamlora bench decode --model small --over base --variants peft-lora teamlora-mlp teamlora-packed\n"
        "llava-teamlora bench decode --model 7b --over base --device cuda --rounds 9 --variants peft-lora moelora-loop"
        " teamlora-mlp teamlora-packed",
        DecodeSettings,
        "llava_teamlora.bench.decode",
    ),
    "trace": Bench(
        "FLOPs, bytes kept and kernels, counted exactly",
        "Count a forward and a backward pass without computing: FLOPs of matrix products, bytes kept for the backward\n"
        "pass (each storage once, parameters not), operations that write. LLaVA-1.5-7B's shapes unless told otherwise.",
        "llava-teamlora bench trace\nllava-teamlora bench trace --total_rank 128 --k 1 2 4 8 16",
        TraceSettings,
        "llava_teamlora.bench.trace",
    ),
    "memory": Bench(
        "a step's peak of memory, estimated and measured",
        "Estimate what a training step of a whole, randomly initialised LLaVA holds at its worst moment, as the\n"
        "trainer does before a run, and measure it, with and without gradient checkpointing. --device meta\n"
        "only estimates.",
        "llava-teamlora bench memory\n"
        "llava-teamlora bench memory --device meta --size 7b --samples 16 --tokens 700\n"
        "llava-teamlora bench memory --device cuda --size 7b --samples 16 --tokens 700",
        MemorySettings,
        "llava_teamlora.bench.memory",
    ),
    "train": Bench(
        "training steps of a whole LLaVA, with and without checkpointing",
        "Time training steps of a whole, randomly initialised LLaVA: forward, backward, AdamW." + _TIMED,
        "llava-teamlora bench train\n"
        "llava-teamlora bench train --device cuda --size 7b --samples 16 --tokens 700 --rounds 5 --out results\n"
        "llava-teamlora bench train --total_rank 128 --k 2 4 8 --out results    # the paper's Figure 4a too",
        TrainSettings,
        "llava_teamlora.bench.train",
    ),
}


def add_parser(subparsers: Any) -> None:
    """Mount ``bench`` on the program's subparsers; each leaf sets ``run``, arguments -> exit status."""
    what = "Measure speed and memory, side by side with peft's LoRA and the published routed methods."
    parser = subparsers.add_parser("bench", help="measure speed and memory", description=what)
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    for name, bench in BENCHES.items():
        leaf = commands.add_parser(
            name,
            help=bench.help,
            description=bench.description,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in bench.examples.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_flags(leaf, bench.settings)
        leaf.add_argument("--quick", action="store_true", help="tiny sizes and few rounds: to see it run, in seconds")
        leaf.add_argument("--out", type=Path, metavar="FOLDER", help=f"write {name}.json and {name}.png there")
        leaf.set_defaults(run=_run, bench=name)
    figure.add_parser(commands)


def _add_flags(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    kinds = get_type_hints(settings)
    for field in fields(settings):
        several = isinstance(field.default, tuple)
        kind = type(field.default[0]) if isinstance(field.default, tuple) else type(field.default)
        if field.default is None:
            kind = next(part for part in kinds[field.name].__args__ if part is not type(None))
        choices = field.metadata.get("choices")
        parser.add_argument(
            f"--{field.name}",
            type=kind,
            nargs="+" if several else None,
            choices=choices,
            metavar="NAME" if choices else field.name.upper()[:1],
            default=argparse.SUPPRESS,
            help=f"{field.metadata['help']}{_default(field)}",
        )


def _default(field: Field[Any]) -> str:
    value = field.default
    if value is None or value is MISSING:
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" (default: {shown})".replace("%", "%%")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Settings of a command line: given flags first, then the quick values if wanted, then the defaults."""
    kind = BENCHES[arguments.bench].settings
    chosen: dict[str, Any] = {}
    for field in fields(kind):
        if hasattr(arguments, field.name):
            value = getattr(arguments, field.name)
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
        elif arguments.quick and field.metadata["quick"] is not None:
            chosen[field.name] = field.metadata["quick"]
    return kind(**chosen)


def _run(arguments: argparse.Namespace) -> int:
    import importlib

    from rich.console import Console

    from llava_teamlora.bench.output import as_table, write

    settings = settings_of(arguments)
    module = importlib.import_module(BENCHES[arguments.bench].module)
    with _progress() as progress:
        found = module.run(settings, progress)
    console = Console()
    console.print(as_table(found))
    if arguments.quick:
        console.print("[dim]--quick: sizes too small for the figures to mean anything[/]")
    if arguments.out is not None:
        for path in write(arguments.out, arguments.bench, settings.to_dict(), found):
            print(path)
    return 0


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Few refreshes: the bar's own computing would be counted with what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total, refresh=True)

        yield tell
