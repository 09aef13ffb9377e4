"""Command line and YAML -> checked, typed arguments.

In: ``argv`` with LLaVA's flag names, and ``--config FILE`` whose keys are the same names (the command line wins).
Out: :class:`Arguments`. Old flags are put into today's words (llava_flags.py); an unknown flag or key is an error that
names the nearest known one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.training.flags.arguments import Arguments, DataArguments, TrainingArguments
from llava_teamlora.training.flags.llava_flags import OLD_NAMES, translate
from llava_teamlora.training.flags.method_arguments import MethodArguments
from llava_teamlora.training.flags.model_arguments import ModelArguments

_EPILOG = """\
A LLaVA script's own flags are understood too and put into today's words, with a notice that lists them
(docs/from_llava.md). A command line that has one of them and neither --lora_enable True, --tune_mm_mlp_adapter True nor
--method fine-tunes everything, as LLaVA does; what it does not say then has LLaVA's default. They are: """ + ", ".join(
    f"--{name}" for name in sorted(OLD_NAMES)
)


class _Parser(HfArgumentParser):
    """Refuses in our words instead of printing argparse's usage of a hundred flags."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"/--[\w-]+", "", message)  # each flag also has a spelling with hyphens
        raise UserError(f"llava-teamlora train: {message} (see llava-teamlora train --help)")


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Parse ``argv`` (without the program's name) over an optional ``--config`` file.

    Raises:
        UserError: an unknown flag or key, a missing one, or a value that is refused.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        [ModelArguments, MethodArguments, DataArguments, TrainingArguments],  # type: ignore[arg-type]
        prog="llava-teamlora train",
        allow_abbrev=False,
        description="Fine-tune a LLaVA with TeamLoRA or a method beside it. Flags are LLaVA's and transformers'.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML of flags (a run folder's run.yaml works); the command line wins."
    )
    defaults = {o.removeprefix("--"): action.default for action in parser._actions for o in action.option_strings}
    known = set(defaults)
    argv = _with_config(_split_config(argv), defaults)
    if "-h" in argv or "--help" in argv:
        parser.print_help()
        raise SystemExit(0)
    translation = translate(argv)
    argv = translation.argv
    said = _said(argv, known)
    parser.set_defaults(**translation.defaults)
    try:
        model, method, data, training, *_ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        reason = reason.replace("Some specified arguments are not used by the HfArgumentParser:", "unexpected words")
        if "doesn't support bf16" in reason:
            reason = "--bf16 True: there is no GPU here with bfloat16; add --use_cpu True to train on the CPU"
        raise UserError(f"llava-teamlora train: {reason}") from error
    return Arguments(model, method, data, training, said, translation.notice)


def _said(argv: Sequence[str], known: set[str]) -> frozenset[str]:
    """Names of the flags given, all of them known."""
    names = [word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")]
    for name in names:
        if name not in known:
            raise UserError(
                f"llava-teamlora train: unknown flag --{name}{nearest(name, known | OLD_NAMES, prefix='--')}"
            )
    return frozenset(name.replace("-", "_") for name in names)


def _split_config(argv: list[str]) -> list[str]:
    """``--config=FILE`` -> ``--config FILE``."""
    return [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]


def _with_config(argv: list[str], defaults: dict[str, Any]) -> list[str]:
    """Put the flags of a ``--config`` file in front of those of the command line."""
    if "--config" not in argv:
        return argv
    if argv.count("--config") > 1:
        raise UserError("--config is given more than once; put all keys into one file")
    position = argv.index("--config")
    if position + 1 == len(argv):
        raise UserError("--config needs a file")
    path = Path(argv[position + 1])
    values = _read_config(path)
    flags: list[str] = []
    for key, value in values.items():
        if key not in defaults.keys() | OLD_NAMES or key in ("config", "help"):
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), defaults.keys() | OLD_NAMES)}")
        if value is None and defaults.get(key) is not None:
            raise UserError(f"{path}: {key} must not be empty; leave it out for its default, {defaults[key]!r}")
        if value is None:
            continue
        words = [json.dumps(item) if isinstance(item, dict) else str(item) for item in _listed(value)]
        flags += [f"--{key}", *words] if words else []
    return flags + argv[:position] + argv[position + 2 :]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file (--config)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: broken YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, dict) and "llava_teamlora_run" in content:
        content = content.get("arguments")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'flag: value' lines")
    return content
