"""``python -m llava_teamlora.sweep.flag_check``: the flags of all cells, read by the trainer's own parser.

In: one JSON object on stdin, ``{"cells": [command line, …], "assume_gpu": bool}``. Out: one on stdout, ``{"gpus": how
many there are, "cells": [{"arguments": {…}, "kept": {…}} | {"error": "…"}, …], "notes": […]}``; ``kept`` are the
arguments in which two runs may not differ to be one. A process of its own, since the parser needs torch and the program
that watches over a sweep for days does not.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import redirect_stdout
from typing import Any

from llava_teamlora.errors import UserError

_WANTS_A_GPU = "there is no GPU here with bfloat16"


def check(asked: dict[str, Any]) -> dict[str, Any]:
    """Parse every command line."""
    import torch

    logging.disable(logging.WARNING)
    notes: dict[str, None] = {}
    found = [_one(argv, asked["assume_gpu"], notes) for argv in asked["cells"]]
    return {"gpus": torch.cuda.device_count(), "cells": found, "notes": list(notes)}


def _one(argv: list[str], assume_gpu: bool, notes: dict[str, None]) -> dict[str, Any]:
    from llava_teamlora.training.adapt import check_adaptable
    from llava_teamlora.training.feeding import check_feeding
    from llava_teamlora.training.flags.command_line import parse_arguments
    from llava_teamlora.training.folder import MAY_DIFFER

    try:
        arguments = parse_arguments(argv)
        check_feeding(arguments)
        check_adaptable(arguments)
    except UserError as error:
        if assume_gpu and _WANTS_A_GPU in str(error):
            notes["no GPU with bfloat16 is here: the flags were checked as if there were one"] = None
            return _one([*argv, "--use_cpu", "True"], False, notes)
        return {"error": str(error)}
    resolved = json.loads(json.dumps(arguments.resolved(), default=str))
    return {"arguments": resolved, "kept": {name: resolved[name] for name in resolved if name not in MAY_DIFFER}}


def main() -> int:
    """Read, check, answer."""
    with redirect_stdout(sys.stderr):
        answer = check(json.load(sys.stdin))
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
