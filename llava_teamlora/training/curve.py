"""A run's log -> ``loss_curve.png``: losses over steps, and the learning rate below them."""

from __future__ import annotations

import io
import math
from typing import Any

from llava_teamlora.training.validation import best_validation


def draw_curve(history: list[dict[str, Any]], title: str) -> bytes | None:
    """Draw all legs of a run.

    Args:
        history: the Trainer's log.
        title: above the picture.

    Returns:
        A PNG file's content; None where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]  older environments lack it
    except ImportError:
        return None
    figure = Figure(figsize=(8, 6), layout="constrained")  # no pyplot: it would keep figures and ask for a display
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps, values = _series(history, "loss")
    losses.plot(steps, values, color="tab:blue", linewidth=0.8, alpha=0.5 if len(steps) > 50 else 1, label="training")
    if len(steps) > 50:
        losses.plot(steps, _smoothed(values), color="tab:blue", label="training, smoothed")
    steps, values = _series(history, "eval_loss")
    if steps:
        losses.plot(steps, values, color="tab:orange", marker="o", markersize=3, label="validation")
    best = best_validation(history)
    if best is not None:
        losses.plot([best.step], [best.loss], "*", color="tab:red", markersize=10, label=f"best {best.loss:.4g}")
    losses.set(title=title, ylabel="loss")
    losses.grid(alpha=0.3)
    losses.legend()
    for name, label in (("learning_rate", "adapter"), ("projector_learning_rate", "projector")):
        steps, values = _series(history, name)
        if steps:
            rates.plot(steps, values, label=label)
    rates.set(xlabel="step", ylabel="learning rate")
    rates.grid(alpha=0.3)
    if len(rates.lines) > 1:
        rates.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _series(history: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of what was logged under a name."""
    found = [(entry["step"], entry[name]) for entry in history if name in entry and math.isfinite(entry[name])]
    return [step for step, _ in found], [value for _, value in found]


def _smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """A running mean in which a value's weight falls by ``keep`` each step; unbiased from the start."""
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth
