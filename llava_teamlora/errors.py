"""The one exception for mistakes of the user: its text is the whole message, shown without a traceback."""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message names the file, index or field, and the remedy."""


def tell_launcher(message: str) -> None:
    """Let torchrun end with what went wrong: its own report of a failed process, the last it prints, then holds it.

    Without a launcher nothing happens. Source: ``torch.distributed.elastic.multiprocessing.errors``.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    said = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
    with suppress(OSError):  # the message has been printed as well
        Path(path).write_text(json.dumps({"message": said}), encoding="utf-8")


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says no more than that another process of the run has gone."""
    signs = ("gloo", "nccl", "tcpstore", "connection reset", "connection closed", "broken pipe")
    return any(sign in str(error).lower() for sign in signs)


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A hint ``; did you mean 'x'?`` for a mistyped name, or an empty string when nothing is near.

    Args:
        name: as typed.
        known: what there is.
        prefix: put before the hint's name (``--`` of a flag).
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {prefix + matches[0]!r}?" if matches else ""
