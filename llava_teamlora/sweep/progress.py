"""How far a training has come, by the end of its log: what transformers' progress bar and the trainer printed last."""

from __future__ import annotations

import re
from pathlib import Path

from llava_teamlora.sweep.children import last_lines

_STEP = re.compile(r"(\d+)/(\d+)(?: \[|, )")
_LOSS = re.compile(r"'loss': '?(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[',}]")  # whole: the line may just be being written


def progress(log: Path) -> str:
    """``step 12/64, loss 1.93``; of an evaluation its questions; empty where the log does not tell."""
    text = "\n".join(last_lines(log, 40))
    text = text.rpartition("\n== ")[2]  # of the command at hand
    steps, losses = _STEP.findall(text), _LOSS.findall(text)
    parts = [f"{steps[-1][0]}/{steps[-1][1]}"] if steps else []
    parts += [f"loss {float(losses[-1]):.4g}"] if losses else []
    return ", ".join(parts)
