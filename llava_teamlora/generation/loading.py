"""Loading a model for a command that shows something else: without transformers' progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded


def load_quietly(path: str | Path, **options: Any) -> Loaded:
    """``checkpoint.load_model`` without progress bars. Errors and warnings come through.

    Args:
        path: as there.
        options: as there.

    Raises:
        UserError: as there.
    """
    from llava_teamlora.checkpoint import load_model

    with no_progress_bars():
        return load_model(path, **options)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars off inside the context."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:  # enabling them against HF_HUB_DISABLE_PROGRESS_BARS would warn
            logging.enable_progress_bar()
