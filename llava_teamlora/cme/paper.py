"""What the paper prints of CME: Tables 2 to 5 as printed, and nothing that stands in its figures alone.

Source: Lin et al., "TeamLoRA: Boosting Low-Rank Adaptation with Expert Collaboration and Competition", ACL 2025. Every
average of Tables 2 and 5 is the mean of its eleven scores to rounding; Tables 3 and 4 agree with Table 2 wherever both
print the same run (tests/cme/test_paper.py). The curves of Figures 1, 3 and 4 are drawn, not printed: of these the text
says only that TeamLoRA takes 87, 70 and 63 % of MoELoRA's training time with 2, 4 and 8 experts (section 3), and that
its average rises from 1 to 4 experts and falls a little with 8 (4.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llava_teamlora.evaluation.paper import ELEVEN

SOURCE = "TeamLoRA (Lin et al., ACL 2025)"
BASE = "Chinese-LLaMA-2-7B"
"""Base of Tables 2 to 4: LLaMA-2-7B with a vocabulary of 55,296, pretrained further."""
BASE_PARAMETERS = 6_929_256_448
"""Its size: what the paper's percentages are of (46,399,488 of LoRA r = 32 are 0.67 %)."""
SWEEP = ("tldr", "imdb", "qqp", "winogrande", "nq", "triviaqa")
"""Table 3's tasks in its order."""


@dataclass(frozen=True)
class Published:
    """One printed row.

    Attributes:
        method: a key of ``rows.METHOD_NAMES``.
        rank: r_B of TeamLoRA, r of others; None where there is none.
        scores: by task, in %.
        average: as printed; None where none is.
        hours: of training on 8 A800.
        percent: trained parameters, of the base's.
        base: what was tuned.
    """

    method: str
    rank: int | None
    scores: Mapping[str, float]
    average: float | None = None
    hours: int | None = None
    percent: float | None = None
    base: str = BASE


def _row(method: str, rank: int | None, hours: int, percent: float, *figures: float) -> Published:
    *scores, average = figures
    return Published(method, rank, dict(zip(ELEVEN, scores, strict=True)), average, hours, percent)


TABLE_2 = (
    _row("prompt_tuning", None, 23, 0.02, 25.3, 91.1, 44.2, 77.0, 65.4, 59.7, 54.8, 38.7, 16.2, 19.4, 31.2, 47.55),
    _row("ia3", None, 24, 0.03, 26.4, 92.0, 48.7, 78.3, 68.1, 61.5, 55.1, 37.7, 18.8, 19.5, 34.9, 49.18),
    _row("lora", 32, 25, 0.67, 27.2, 95.6, 57.6, 84.9, 87.0, 65.8, 68.2, 47.1, 23.3, 34.7, 40.4, 57.44),
    _row("lora", 128, 26, 2.68, 27.3, 95.6, 56.8, 87.4, 85.7, 71.6, 70.8, 47.2, 25.2, 36.8, 42.5, 58.81),
    _row("adalora", 128, 30, 2.56, 27.4, 95.5, 57.2, 87.0, 86.3, 72.1, 71.1, 46.8, 25.5, 35.2, 42.9, 58.82),
    _row("moslora", 128, 28, 2.70, 27.3, 95.6, 58.3, 86.8, 86.6, 73.2, 71.9, 47.4, 25.8, 38.4, 41.4, 59.34),
    _row("hydralora", 32, 34, 1.84, 27.6, 95.9, 57.8, 86.5, 87.2, 70.1, 70.2, 50.6, 24.6, 37.0, 42.2, 59.06),
    _row("moelora", 32, 42, 2.71, 27.4, 95.5, 59.3, 87.2, 86.1, 72.9, 71.8, 50.1, 25.1, 38.4, 42.8, 59.69),
    _row("teamlora", 16, 28, 1.35, 27.4, 95.9, 59.2, 86.6, 87.0, 73.1, 73.1, 51.3, 25.9, 37.1, 42.8, 59.95),
    _row("teamlora", 32, 29, 2.71, 27.6, 95.7, 58.9, 87.5, 87.1, 73.8, 72.3, 51.8, 26.4, 38.8, 43.3, 60.29),
)


def _swept(method: str, rank: int, *scores: float) -> Published:
    return Published(method, rank, dict(zip(SWEEP, scores, strict=True)))


TABLE_3 = (
    (
        _swept("lora", 32, 27.2, 95.6, 84.9, 65.8, 23.3, 34.7),
        _swept("moelora", 8, 27.3, 95.5, 86.3, 67.8, 21.9, 33.7),
        _swept("teamlora", 8, 27.9, 96.1, 86.3, 68.7, 24.0, 35.7),
    ),
    (
        _swept("lora", 64, 27.4, 95.7, 86.4, 70.2, 25.6, 35.5),
        _swept("moelora", 16, 27.7, 95.6, 86.3, 69.5, 24.3, 36.4),
        _swept("teamlora", 16, 27.4, 95.9, 86.6, 73.1, 25.9, 37.1),
    ),
    (
        _swept("lora", 128, 27.3, 95.6, 87.4, 71.6, 25.2, 36.8),
        _swept("moelora", 32, 27.4, 95.5, 87.2, 72.9, 25.1, 38.4),
        _swept("teamlora", 32, 27.6, 95.7, 87.5, 73.8, 26.4, 38.8),
    ),
    (
        _swept("lora", 256, 26.3, 96.0, 87.8, 71.7, 17.5, 23.8),
        _swept("moelora", 64, 26.9, 96.2, 87.3, 71.8, 21.8, 35.1),
        _swept("teamlora", 64, 26.9, 95.4, 88.1, 71.9, 21.9, 35.5),
    ),
)
"""Blocks of about equal size: a LoRA of rank 4 r beside experts of rank r. The paper marks the best of each block."""

ABLATIONS = ((False, False), (True, False), (False, True), (True, True))
"""Table 4's rows: whether there is competition, whether there is collaboration."""
TABLE_4 = {
    (False, False): {8: 57.65, 16: 59.08, 32: 59.69, 64: 58.88},
    (True, False): {8: 58.18, 16: 59.25, 32: 59.77, 64: 59.07},
    (False, True): {8: 58.27, 16: 59.77, 32: 60.24, 64: 58.87},
    (True, True): {8: 58.31, 16: 59.95, 32: 60.29, 64: 58.94},
}
"""Averages of the eleven tasks by rank of one expert."""


def _llama_3(method: str, rank: int, *figures: float) -> Published:
    *scores, average = figures
    return Published(method, rank, dict(zip(ELEVEN, scores, strict=True)), average, base="Llama-3-8B")


TABLE_5 = (
    _llama_3("lora", 32, 24.3, 95.1, 47.2, 78.9, 80.1, 58.3, 70.6, 34.6, 19.3, 37.1, 52.2, 54.34),
    _llama_3("moelora", 8, 24.8, 94.9, 47.6, 79.0, 81.0, 58.2, 69.8, 35.1, 20.2, 40.4, 49.2, 54.56),
    _llama_3("teamlora", 8, 25.2, 94.2, 49.7, 79.0, 81.4, 58.3, 70.1, 36.1, 22.2, 41.3, 52.1, 55.42),
)
