"""``llava-teamlora chat``: the page in a browser, on this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.serving.loading_flags import add_loading_flags, loading_options

if TYPE_CHECKING:
    from llava_teamlora.serving.page import PageSettings

_DESCRIPTION = """\
Open a page to talk with a model about pictures, in any browser of this machine. A run folder comes with its base: the
same question can be put to both, side by side, with one base in memory. Of TeamLoRA and the other routed methods the
page shows which experts take part in each token, and lets you switch them off or boost them.

Nothing is asked of the network, and nobody else can reach the page, unless --host or --share says so.
"""
_EXAMPLES = """\
examples:
  llava-teamlora chat playground/tiny                              the embedded model, untuned
  llava-teamlora chat runs/teamlora                                a run, beside its base
  llava-teamlora chat runs/teamlora --compare runs/lora            two runs on one base
  llava-teamlora chat runs/teamlora --log_votes votes.jsonl        thumbs up, down and flags, a line each
  llava-teamlora chat runs/teamlora --host 0.0.0.0 --auth users.txt   for others, by name and password
  ssh -L 7860:127.0.0.1:7860 machine                               reach the page of another machine, by yourself
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``chat`` on the program's subparsers."""
    parser = subparsers.add_parser(
        "chat",
        help="talk to a model in the browser",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a run folder, one of its checkpoints, or an untuned base")
    parser.add_argument("--compare", metavar="MODEL", nargs="+", default=[], help="others to choose from on the page; "
        "runs on the same base share its memory")  # fmt: skip
    _add_page(parser.add_argument_group("the page").add_argument)
    _add_address(parser.add_argument_group("who can reach it").add_argument)
    _add_limits(parser.add_argument_group("limits").add_argument)
    add_loading_flags(parser)
    parser.set_defaults(run=run)


def _add_page(add: Any) -> None:
    add("--examples", metavar="FOLDER", help="pictures to begin with, each with its question in a text file of the "
        "same name: shape.png, shape.txt")  # fmt: skip
    add("--log_votes", metavar="FILE", help="append votes to this file, a JSON object a line (default: no votes)")
    add("--theme", choices=("system", "light", "dark"), default="system", help="colours at first (default: system, as "
        "the browser's)")  # fmt: skip
    add("--temperature", type=float, default=0.0, help="where its slider stands at first; 0, the default, takes the "
        "likeliest word")  # fmt: skip
    add("--top_p", type=float, default=1.0, help="likewise (default: 1)")
    add("--max_new_tokens", type=int, default=512, metavar="N", help="likewise (default: 512)")
    add("--seed", type=int, default=0, help="likewise (default: 0)")


def _add_address(add: Any) -> None:
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone; 0.0.0.0: "
        "all networks)")  # fmt: skip
    add("--port", type=int, default=7860, metavar="N", help="port (default: 7860; 0: any free one)")
    add("--auth", metavar="USER:PASSWORD|FILE", help="who may come in: a name and password, or better a file of such "
        "lines (other users of this machine can read command lines)")  # fmt: skip
    add("--share", action="store_true", help="a public address for a week, through Gradio's relay; asks the network")


def _add_limits(add: Any) -> None:
    add("--max_upload_mib", type=float, default=20, metavar="MIB", help="of one file (default: 20)")
    add("--max_image_pixels", type=int, default=50_000_000, metavar="N", help="of one picture (default: 50000000)")
    add("--max_images", type=int, default=16, metavar="N", help="of one conversation (default: 16)")
    add("--max_questions", type=int, default=100, metavar="N", help="of one conversation (default: 100)")
    add("--max_answer_tokens", type=int, default=2048, metavar="N", help="of one answer (default: 2048)")
    add("--max_batch", type=int, default=16, metavar="N", help="answers in the making at once (default: 16)")
    add("--max_waiting", type=int, default=64, metavar="N", help="questions in the line beside them (default: 64)")
    add("--timeout_s", type=float, default=600, metavar="S", help="longest time for one answer, waiting included "
        "(default: 600)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """The command ``chat``.

    Raises:
        UserError: no such model, an address that cannot be had, or an impossible setting.
    """
    from llava_teamlora.serving.engine import Engine, Limits
    from llava_teamlora.serving.family import load_family
    from llava_teamlora.serving.page import check_gradio, free_port, open_page

    settings = page_settings(arguments)
    check_gradio()
    free_port(settings.host, settings.port)  # a port in use is found out before a model is loaded
    limits = Limits(arguments.max_batch, arguments.max_waiting, timeout_s=arguments.timeout_s)
    with tempfile.TemporaryDirectory(prefix="llava-teamlora-chat-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what people upload is gone when the page is
        print(f"loading {arguments.model} …", file=sys.stderr, flush=True)
        family = load_family([arguments.model, *arguments.compare], **loading_options(arguments))
        with Engine(family, limits) as engine:
            engine.warm_up()
            with closing(open_page(engine, settings)) as page:
                print(f"talk to {', '.join(family.models)} at {page.url} (Ctrl-C ends it)", file=sys.stderr)
                if page.share_url:
                    print(f"from anywhere, for everybody who knows it: {page.share_url}", file=sys.stderr)
                _until_ended()
    return 0


def _until_ended() -> None:
    """Ctrl-C or SIGTERM."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        ended.wait()
    except KeyboardInterrupt:
        print("the page is closed", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)


def page_settings(arguments: argparse.Namespace) -> PageSettings:
    """The page's settings as the command line says.

    Raises:
        UserError: an impossible one.
    """
    from llava_teamlora.generation.query import Decoding
    from llava_teamlora.serving.page import PageSettings, read_examples
    from llava_teamlora.serving.pictures import PictureLimits

    for name in ("max_upload_mib", "max_image_pixels", "max_questions", "max_answer_tokens"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name} {getattr(arguments, name)} must be above 0")
    if not 0 <= arguments.port < 65536:
        raise UserError(f"--port {arguments.port} is not between 0 and 65535")
    if arguments.log_votes is not None and not Path(arguments.log_votes).absolute().parent.is_dir():
        raise UserError(f"--log_votes {arguments.log_votes}: its folder is not there")
    return PageSettings(
        host=arguments.host,
        port=arguments.port,
        users=_users(arguments.auth) if arguments.auth else (),
        share=arguments.share,
        decoding=Decoding(arguments.max_new_tokens, arguments.temperature, arguments.top_p, seed=arguments.seed),
        longest_answer=arguments.max_answer_tokens,
        examples=read_examples(arguments.examples) if arguments.examples else (),
        log_votes=None if arguments.log_votes is None else Path(arguments.log_votes),
        colours=arguments.theme,
        pictures=PictureLimits(int(arguments.max_upload_mib * 2**20), arguments.max_image_pixels),
        max_pictures=arguments.max_images,
        max_exchanges=arguments.max_questions,
    )


def _users(auth: str) -> tuple[tuple[str, str], ...]:
    """Names and passwords; of a file one pair a line."""
    lines, where = [auth], "--auth"
    if Path(auth).is_file():
        where = f"--auth {auth}"
        try:
            lines = [line for line in Path(auth).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: cannot be read as UTF-8 text ({error})") from error
    pairs = [line.partition(":") for line in lines]
    if not pairs or not all(name and password for name, _, password in pairs):
        raise UserError(f"{where}: is neither USER:PASSWORD nor a file of such lines")
    return tuple((name, password) for name, _, password in pairs)
