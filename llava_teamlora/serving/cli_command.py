"""``llava-teamlora cli``: its arguments, and what they set up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.serving.lines import history_file, line_reader
from llava_teamlora.serving.loading_flags import add_loading_flags, loading_options
from llava_teamlora.serving.terminal import HELP, Terminal

if TYPE_CHECKING:
    from llava_teamlora.generation import Generator

_DESCRIPTION = f"""\
Talk to a model in the terminal. A line is a question, unless it begins with a slash:

{HELP}

Lines may be piped in:  echo "what is this?" | llava-teamlora cli playground/tiny --image picture.png
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``cli`` on the program's subparsers."""
    parser = subparsers.add_parser(
        "cli",
        help="talk to a model in the terminal",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run folder, one of its checkpoints, or an untuned base")
    add("--compare", metavar="MODEL", nargs="+", default=[], help="others, for /model; runs on the same base share it")
    add("--image", metavar="FILE", action="append", default=[], help="picture for the first question; of several, each")
    add("--system", metavar="TEXT", help="system prompt (default: the template's own, as in training)")
    add("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest word; 0.7 varies")
    add("--top_p", type=float, default=1.0, help="with a temperature: nucleus to sample from (default: 1)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search above 1 (default: 1)")
    add("--max_new_tokens", type=int, default=512, metavar="N", help="longest answer (default: 512)")
    add("--seed", type=int, default=0, help="of sampling (default: 0)")
    add("--static_cache", action="store_true", help="keys and values in a cache of fixed size")
    add("--compile", action="store_true", help="compiled steps (on CUDA a graph), in a cache of fixed size; the first "
        "answer waits minutes")  # fmt: skip
    add("--no_history", action="store_true", help="do not keep what is typed (else in "
        "~/.local/state/llava-teamlora/history)")  # fmt: skip
    add_loading_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command ``cli``.

    Raises:
        UserError: no such model or first picture, an impossible setting, or no input.
    """
    from llava_teamlora.generation import Decoding
    from llava_teamlora.serving.talk import Talk

    if sys.stdin is None:
        raise UserError("standard input is closed, but questions are read from it; leave it open, or pipe them in")
    decoding = Decoding(
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_p,
        arguments.num_beams,
        arguments.seed,
    )
    talk = Talk(_generators(arguments), decoding, arguments.system)
    if arguments.image:
        print("\n".join(talk.show(*arguments.image)), file=sys.stderr)
    if sys.stdin.isatty():
        others = f" (and {', '.join(list(talk.generators)[1:])}: /model)" if len(talk.generators) > 1 else ""
        print(f"{talk.model} is listening{others}; /help names the commands", file=sys.stderr)
    terminal = Terminal(talk, input, sys.stdout, sys.stderr)
    kept = None if arguments.no_history else history_file()
    with line_reader([*terminal.commands, "/exit"], terminal.complete, kept) as terminal.read:
        return terminal.loop()


def _generators(arguments: argparse.Namespace) -> Mapping[str, Generator]:
    """The models by name, the first one first."""
    from llava_teamlora.generation import Generator, Steps
    from llava_teamlora.generation.loading import load_quietly
    from llava_teamlora.serving.family import load_family

    options = loading_options(arguments)
    steps = Steps(arguments.static_cache, arguments.compile)
    if steps.fixed:  # a cache for each of several models would be in memory
        if arguments.compare:
            raise UserError("--compare is for a growing cache; drop --static_cache and --compile")
        return {arguments.model: Generator(load_quietly(arguments.model, **options), steps)}
    family = load_family([arguments.model, *arguments.compare], **options)
    return {member.id: member.generator for member in family.models.values()}
