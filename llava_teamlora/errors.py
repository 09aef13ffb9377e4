"""The one exception for mistakes of the user: its text is the whole message, shown without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The message names the file, index or field, and the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?`` for a mistyped name, or an empty string when nothing is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""
