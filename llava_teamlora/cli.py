"""``llava-teamlora``: one program, one subcommand a room. A user's mistake ends in one line, without a traceback."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence

from llava_teamlora import __version__
from llava_teamlora.errors import UserError, is_lost_process, tell_launcher

_EPILOG = """\
A first run, on a bare CPU machine:   bash scripts/finetune_teamlora.sh
See what would be trained on what:    llava-teamlora train --config run.yaml --dry_run True
"""

_FIRST_SPEAKS_S = 10.0
"""Within this the first process has ended and its launcher has noticed, also on a crowded machine."""


def _parser() -> argparse.ArgumentParser:
    from llava_teamlora.analysis import commands as analysis
    from llava_teamlora.bench import commands as bench
    from llava_teamlora.cme import commands as cme
    from llava_teamlora.conversion import commands as conversion
    from llava_teamlora.doctor import commands as doctor
    from llava_teamlora.evaluation import commands as evaluation
    from llava_teamlora.serving import chat_command, cli_command, serve_command
    from llava_teamlora.sweep import commands as sweep
    from llava_teamlora.training import data_command

    parser = argparse.ArgumentParser(
        prog="llava-teamlora",
        description="Fine-tune, evaluate and talk to LLaVA models with TeamLoRA.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    subparsers.add_parser("train", help="fine-tune a LLaVA (see llava-teamlora train --help)", add_help=False)
    data_command.add_parser(subparsers)
    evaluation.add_parser(subparsers)
    cme.add_parser(subparsers)
    chat_command.add_parser(subparsers)
    cli_command.add_parser(subparsers)
    serve_command.add_parser(subparsers)
    analysis.add_parser(subparsers)
    conversion.add_parser(subparsers)
    sweep.add_parser(subparsers)
    bench.add_parser(subparsers)
    doctor.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a user's mistake, 130 for an interruption.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # LLaVA's flag and peft's attribute keep the name that transformers is about to change.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    # DeepSpeed's calls, hundreds of times a step; the package that bitsandbytes misses is no loss to us.
    warnings.filterwarnings("ignore", message="`torch.distributed.*_tensor` is deprecated", category=FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        if argv[:1] == ["train"]:
            from llava_teamlora.training.run import train

            return train(argv[1:])
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except UserError as error:
        return _refused(error)
    except RuntimeError as error:
        if "RANK" not in os.environ or not is_lost_process(error):
            raise
        reason = str(error).strip().splitlines()[0]
        lost = f"another process has gone, whose own message says why ({reason})"
        print(f"\nerror: process {os.environ['RANK']}: {lost}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader went away, as `head` does; the interpreter must not complain of it on the way out either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130


def _refused(error: UserError) -> int:
    """Print a user's mistake, once even where many processes find the same; returns the exit status."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(_FIRST_SPEAKS_S)  # when the first process finds it too, the launcher ends this one meanwhile
    said = f"error: process {rank}: {error}" if rank != "0" else f"error: {error}"
    print(said, file=sys.stderr)
    tell_launcher(said)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
