"""The flags that say how models are loaded: the same of ``chat``, ``cli`` and ``serve``."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from llava_teamlora.errors import UserError

_LLAVAS = {
    "model-path": "the model needs no flag: the first word after the command",
    "model-base": "--model_base",
    "image-file": "--image of cli; on the page and at the endpoint pictures come with their questions",
    "load-4bit": "--bits 4",
    "load-8bit": "--bits 8",
    "conv-mode": "--version",
    "max-new-tokens": "--max_new_tokens of chat and cli",
}
"""Flags of LLaVA's own programs, and what does the same here."""
_NAMES = ("model_base", "vision_tower", "version", "device", "dtype", "bits")


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add them, as a group of their own."""
    add = parser.add_argument_group("how models are loaded").add_argument
    add("--model_base", metavar="PATH", help="where a run's base lies now; what an original LLaVA's LoRA lies on")
    add("--vision_tower", metavar="PATH", help="likewise the tower of a base put together, or an original LLaVA's")
    add("--version", metavar="NAME", help="conversation template of an untuned base, as v1 or chat, its own chat "
        "template (default: v1; a run folder names its own)")  # fmt: skip
    add("--device", help="torch device (default: the accelerator if there is one, else cpu)")
    add("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on an accelerator, else float32)")
    add("--bits", type=int, choices=(16, 8, 4), help="of the language model (default: as trained; a base: 16)")
    for name in _LLAVAS:
        parser.add_argument(*_spellings(name), action=_OfLlava, dest=name, nargs="?", help=argparse.SUPPRESS)


def loading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``checkpoint.load_model`` is told by them."""
    return {name: getattr(arguments, name) for name in _NAMES}


class _OfLlava(argparse.Action):
    """Says what to write instead of a flag that people know from LLaVA."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        raise UserError(f"{option_string} is a flag of LLaVA's own programs; here: {_LLAVAS[self.dest]}")


def _spellings(name: str) -> set[str]:
    """With hyphens, and with underscores where that is no flag of ours."""
    other = name.replace("-", "_")
    return {f"--{name}"} if other in ("model_base", "max_new_tokens") else {f"--{name}", f"--{other}"}
