"""The nine benchmarks of the paper's Table 6, the eleven of its Table 2, their averages, and what others published.

What was published of the eleven is in ``cme/paper.py``. Figures are as printed, in the unit of the official tool: MME's
perception of 2000, everything else in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NINE = ("mme", "mmbench", "mmbench_cn", "seed", "pope", "sqa", "textvqa", "mmvet", "vizwiz")
"""Table 6's benchmarks in its order; their totals are its cells."""

ELEVEN = ("tldr", "imdb", "anli", "qqp", "rte", "winogrande", "arc", "webqa", "nq", "triviaqa", "mmlu")
"""Table 2's tasks in its order: CME."""

HEADS = {
    "mme": "MME",
    "mmbench": "MMB",
    "mmbench_cn": "MMB-CN",
    "seed": "SEED",
    "pope": "POPE",
    "sqa": "SQA-I",
    "textvqa": "VQA-T",
    "mmvet": "MM-Vet",
    "vizwiz": "VizWiz",
    "gqa": "GQA",
    "vqav2": "VQAv2",
    "llava_bench": "LLaVA-W",
    "easy_vqa": "easy-VQA",
    "tldr": "OAI-Sum",
    "imdb": "IMDB",
    "anli": "ANLI",
    "qqp": "QQP",
    "rte": "RTE",
    "winogrande": "WinG",
    "arc": "ARC",
    "webqa": "WQA",
    "nq": "NQ",
    "triviaqa": "TQA",
    "mmlu": "MMLU",
}
"""What a column is called; a benchmark that is not here goes by its own name."""

_MAXIMA = {"mme": 2000.0}


@dataclass(frozen=True)
class Published:
    """One row that others published.

    Attributes:
        label: the method.
        source: where it stands.
        values: by benchmark, as printed.
        average: as printed; None where none is.
    """

    label: str
    source: str
    values: Mapping[str, float]
    average: float | None = None


def maximum_of(benchmark: str) -> float:
    """A perfect score in the published figures' unit."""
    return _MAXIMA.get(benchmark, 100.0)


def average(shares: Mapping[str, float], names: Sequence[str] = NINE) -> float:
    """``Avg.``: 100 times the mean of the shares. Table 6's is (MME / 20 + the other eight) / 9.

    Args:
        shares: of all benchmarks averaged over, 0 to 1 each.
        names: of these benchmarks.

    Raises:
        KeyError: one of them is not there.
    """
    return 100 * sum(shares[name] for name in names) / len(names)


def _nine(*values: float) -> dict[str, float]:
    return dict(zip(NINE, values, strict=True))


_PAPER = "TeamLoRA (Lin et al., ACL 2025), Table 6"
_LLAVA = "LLaVA's docs/MODEL_ZOO.md (haotian-liu/LLaVA at c121f04); Avg. worked out here"
PUBLISHED = (
    Published(
        "LoRA r=32 (paper)", _PAPER, _nine(1505.2, 62.8, 53.7, 60.2, 84.8, 67.8, 56.9, 30.2, 48.4), average=60.01
    ),
    Published(
        "MoELoRA r=8 (paper)", _PAPER, _nine(1472.7, 62.3, 53.8, 59.5, 84.4, 68.7, 57.1, 30.1, 48.7), average=59.80
    ),
    Published(
        "TeamLoRA r=8 (paper)", _PAPER, _nine(1513.5, 62.6, 54.0, 60.0, 85.3, 68.7, 57.1, 31.2, 49.4), average=60.44
    ),
    Published(
        "LLaVA-1.5-7B, full (LLaVA)",
        _LLAVA,
        {
            **_nine(1510.7, 64.3, 58.3, 58.6, 85.9, 66.8, 58.2, 31.1, 50.0),
            **{"gqa": 62.0, "vqav2": 78.5, "llava_bench": 65.4},
        },
    ),
    Published(
        "LLaVA-1.5-7B, LoRA (LLaVA)",
        _LLAVA,
        {
            **_nine(1476.9, 66.1, 58.9, 60.1, 86.4, 68.4, 58.2, 30.2, 47.8),
            **{"gqa": 63.0, "vqav2": 79.1, "llava_bench": 67.9},
        },
    ),
)
