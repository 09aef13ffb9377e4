"""The benchmarks, by the name they have on the command line."""

from __future__ import annotations

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.types import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "easy_vqa": EasyVqa(),
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: an unknown name.
    """
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise UserError(f"{name!r} is not a benchmark (known: {known}){nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]
