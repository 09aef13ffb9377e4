"""``llava-teamlora serve``: models behind an address that OpenAI's clients can talk to."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.serving.loading_flags import add_loading_flags, loading_options

if TYPE_CHECKING:
    from llava_teamlora.serving.api.settings import ApiSettings

_KEY_VARIABLE = "LLAVA_TEAMLORA_API_KEY"
_DESCRIPTION = """\
Answer POST /v1/chat/completions as OpenAI's API does, streamed or not, pictures included; beside it /v1/models,
/health and /metrics. A run folder with an adapter is served with its base: two models, one base in memory.

  llava-teamlora serve runs/teamlora --port 8000
  curl http://127.0.0.1:8000/v1/models
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``serve`` on the program's subparsers."""
    parser = subparsers.add_parser(
        "serve",
        help="serve models to OpenAI's clients",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="run folders, checkpoints or untuned bases; of the "
        "first, if it is an adapter, its base as well")  # fmt: skip
    _add_address(parser.add_argument_group("address and access").add_argument)
    _add_limits(parser.add_argument_group("limits").add_argument)
    add_loading_flags(parser)
    parser.set_defaults(run=run)


def _add_address(add: Any) -> None:
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone; 0.0.0.0: "
        "all networks, which wants an API key)")  # fmt: skip
    add("--port", type=int, default=8000, metavar="N", help="port (default: 8000; 0: any free one)")
    add("--served_name", metavar="NAME", help="what the first model is called (default: as its folder)")
    add("--api_key", nargs="+", default=[], metavar="KEY", help="keys that may ask; other users of this machine can "
        f"read command lines, so better --api_key_file or the environment's {_KEY_VARIABLE}")  # fmt: skip
    add("--api_key_file", metavar="FILE", help="file with a key a line")
    add("--allow_images_under", nargs="+", default=[], metavar="FOLDER", help="folders whose pictures requests may "
        "name by file:// or path (default: none)")  # fmt: skip
    add("--allow_remote_images", action="store_true", help="fetch pictures that requests name by http(s), from public "
        "addresses alone (default: refuse them)")  # fmt: skip
    add("--allow_origin", nargs="+", default=[], metavar="ORIGIN", help="web pages that may ask, as "
        "https://example.org, or '*' (default: none)")  # fmt: skip
    add("--allow_host", nargs="+", default=[], metavar="NAME", help="further names this server is called by, as behind "
        "a proxy (default: those of --host; any, when it listens to networks)")  # fmt: skip


def _add_limits(add: Any) -> None:
    add("--max_batch", type=int, default=16, metavar="N", help="answers in the making at once (default: 16)")
    add("--max_waiting", type=int, default=64, metavar="N", help="requests in the line beside them; a further one is "
        "told to come again (429) (default: 64)")  # fmt: skip
    add("--max_prompt_tokens", type=int, metavar="N", help="of one prompt (default: the model's positions)")
    add("--max_answer_tokens", type=int, default=2048, metavar="N", help="of one answer (default: 2048)")
    add("--max_answers", type=int, default=8, metavar="N", help="n of one request (default: 8)")
    add("--max_messages", type=int, default=256, metavar="N", help="of one conversation (default: 256)")
    add("--max_images", type=int, default=16, metavar="N", help="of one conversation (default: 16)")
    add("--max_image_mib", type=float, default=20, metavar="MIB", help="of one picture's file (default: 20)")
    add("--max_image_pixels", type=int, default=50_000_000, metavar="N", help="of one picture (default: 50000000)")
    add("--max_body_mib", type=float, default=32, metavar="MIB", help="of one request (default: 32)")
    add("--timeout_s", type=float, default=600, metavar="S", help="longest time for one answer, waiting included "
        "(default: 600)")  # fmt: skip
    add("--drain_s", type=float, default=30, metavar="S", help="how long answers may go on after SIGTERM or Ctrl-C "
        "(default: 30)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """The command ``serve``.

    Raises:
        UserError: no such model, an address that cannot be had, or an impossible setting.
    """
    settings = _settings(arguments)
    try:
        from llava_teamlora.serving.api.app import create_app
        from llava_teamlora.serving.api.server import Server, address_of, open_port
    except ImportError as error:
        raise UserError(f"serving needs more packages ({error}); pip install 'llava-teamlora[serve]'") from error
    from llava_teamlora.serving.engine import Engine, Limits
    from llava_teamlora.serving.family import load_family

    limits = Limits(arguments.max_batch, arguments.max_waiting, arguments.max_prompt_tokens, arguments.timeout_s)
    _log_to_stderr()
    sock = open_port(arguments.host, arguments.port)  # a port in use is found out before a model is loaded
    with sock:
        first = str(Path(arguments.models[0]))  # as a model tells its own path
        names = {} if arguments.served_name is None else {first: arguments.served_name}
        print(f"loading {arguments.models[0]} …", file=sys.stderr, flush=True)
        family = load_family(arguments.models, names, **loading_options(arguments))
        with Engine(family, limits) as engine:
            engine.warm_up()
            url = address_of(sock)

            def tell() -> None:
                print(_greeting(url, list(family.models), bool(settings.keys)), file=sys.stderr, flush=True)

            Server(create_app(engine, settings), engine, arguments.drain_s, tell).run(sockets=[sock])
    return 0


def _settings(arguments: argparse.Namespace) -> ApiSettings:
    for name in ("max_answer_tokens", "max_answers", "max_messages", "max_image_mib", "max_image_pixels",
                 "max_body_mib"):  # fmt: skip
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name} {getattr(arguments, name)} must be above 0")
    for name in ("max_images", "drain_s"):
        if not 0 <= getattr(arguments, name) < float("inf"):
            raise UserError(f"--{name} {getattr(arguments, name)} must be 0 or above")
    from llava_teamlora.serving.api.settings import ApiSettings
    from llava_teamlora.serving.pictures import PictureLimits, PictureSources
    from llava_teamlora.serving.remote import fetch

    roots = tuple(map(Path, arguments.allow_images_under))
    missing = next((root for root in roots if not root.is_dir()), None)
    if missing is not None:
        raise UserError(f"--allow_images_under {missing}: no such folder")
    limits = PictureLimits(int(arguments.max_image_mib * 2**20), arguments.max_image_pixels)
    return ApiSettings(
        keys=_keys(arguments),
        pictures=PictureSources(limits, roots, fetch if arguments.allow_remote_images else None),
        origins=tuple(arguments.allow_origin),
        hosts=_hosts(arguments.host, arguments.allow_host),
        max_body_bytes=int(arguments.max_body_mib * 2**20),
        max_messages=arguments.max_messages,
        max_pictures=arguments.max_images,
        max_answers=arguments.max_answers,
        max_answer_tokens=arguments.max_answer_tokens,
    )


def _keys(arguments: argparse.Namespace) -> tuple[str, ...]:
    """From the command line, the file and the environment, all of them."""
    keys = [*arguments.api_key, *os.environ.get(_KEY_VARIABLE, "").split()]
    if arguments.api_key_file is not None:
        try:
            found = Path(arguments.api_key_file).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api_key_file {arguments.api_key_file}: cannot be read ({error})") from error
        if not found:
            raise UserError(f"--api_key_file {arguments.api_key_file}: holds no key; write one a line")
        keys += found
    if not all(key and key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError("an API key is one word of ASCII letters, digits and signs")
    return tuple(keys)


def _hosts(host: str, more: list[str]) -> tuple[str, ...]:
    """Names in a request's Host header that are taken; none named takes all."""
    own = ("localhost", "127.0.0.1", "::1", host.lower())
    return (*own, *map(str.lower, more)) if more or _is_loopback(host) else ()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _log_to_stderr() -> None:
    """The access log and what goes wrong, a line each."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("llava_teamlora.serving").setLevel(logging.INFO)


def _greeting(url: str, models: list[str], guarded: bool) -> str:
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    key = ' \\\n    -H "Authorization: Bearer YOUR_KEY"' if guarded else ""
    return (
        f"serving {', '.join(models)} at {url}/v1 (Ctrl-C ends it)\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n    -d {shlex.quote(body)}"
    )
