"""Which rows of a set come into the mix: duplicates, the set's cap, the mix's scale.

Everything follows from digests: no row's fate hangs on the order of the files' rows. A smaller cap or scale chooses a
part of what a larger one chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What became of a set's rows.

    Attributes:
        chosen: for each row, bool [rows].
        duplicates: rows that another row of their set says already.
        duplicates_of_others: rows that a set before theirs brings already.
        over_cap: rows beyond the set's cap.
        beyond_scale: rows beyond the mix's scale.
    """

    chosen: np.ndarray
    duplicates: int
    duplicates_of_others: int
    over_cap: int
    beyond_scale: int


class Chooser:
    """Chooses set by set, in the order of the mix.

    What an earlier set brings at full scale a later one does not bring again, whatever the scale: else 20 % would lack
    rows of 10 %.
    """

    def __init__(self, scale: int, *, dedup: bool) -> None:
        self.scale, self.dedup = scale, dedup
        self._brought = np.empty(0, np.uint64)

    def choose(self, contents: np.ndarray, priorities: np.ndarray, cap: int) -> Choice:
        """Of one set.

        Args:
            contents: see ``Survey``.
            priorities: see ``Survey``.
            cap: the most rows it may bring.
        """
        rows = np.arange(len(contents))
        owners = _firsts(contents, priorities) if self.dedup else rows
        new = owners[~_are_in(contents[owners], self._brought)] if self.dedup else owners
        ordered = new[np.argsort(priorities[new], kind="stable")][:cap]
        if self.dedup:
            self._brought = np.sort(np.concatenate((self._brought, contents[ordered])))
        kept = ordered[: math.ceil(len(ordered) * self.scale / 100)]
        chosen = np.zeros(len(rows), bool)
        chosen[kept] = True
        return Choice(
            chosen,
            duplicates=len(rows) - len(owners),
            duplicates_of_others=len(owners) - len(new),
            over_cap=len(new) - len(ordered),
            beyond_scale=len(ordered) - len(kept),
        )


def _firsts(contents: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """One row of each content, that of the lowest priority; in the order of rows."""
    order = np.lexsort((priorities, contents))
    ordered = contents[order]
    first = np.ones(len(order), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return np.sort(order[first])


def _are_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of the values are among the ordered ones; np.isin takes five times the memory."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
