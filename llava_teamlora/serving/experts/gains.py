"""Experts weighted by hand: what a page's sliders mean.

A gain g_i multiplies expert i's participation in every layer, omega_i' = g_i omega_i: 0 switches it off, 1 leaves it
as trained, 2 doubles what it adds.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_teamlora.serving.experts.words import say

GAIN_RANGE = (0.0, 2.0, 0.05)
"""Least, most and step of a slider."""


def even_gains(k: int) -> tuple[float, ...]:
    """All experts as trained."""
    return (1.0,) * k


def only_expert(k: int, i: int) -> tuple[float, ...]:
    """Expert i, from 0, as trained; the others off."""
    return tuple(float(j == i) for j in range(k))


def used_gains(gains: Sequence[float] | None) -> tuple[float, ...] | None:
    """The gains as an answer is asked for with them: None where they change nothing."""
    if gains is None or all(gain == 1 for gain in gains):
        return None
    return tuple(map(float, gains))


def expert_label(i: int, language: str = "en") -> str:
    """What expert i, from 0, is called; people count from 1."""
    return say("expert", language, number=i + 1)


def gains_summary(gains: Sequence[float] | None, language: str = "en") -> str:
    """One line of what the gains do."""
    gains = used_gains(gains)
    if gains is None:
        return say("as_trained", language)
    if not any(gains):
        return say("all_off", language)
    changed = [
        say("off" if gain == 0 else "times", language, number=i + 1, gain=f"{gain:g}")
        for i, gain in enumerate(gains)
        if gain != 1
    ]
    return say("list", language).join(changed)
