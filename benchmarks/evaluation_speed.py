"""Questions a second of ``evaluate predict`` by batch size, in turns on one machine.

The embedded base answers questions of easy-VQA greedily, pictures read from their files: once each about a picture of
its own, and once many about each, whose picture the batch then computes once. Batch 1 is ``--mode paper``.

  OMP_NUM_THREADS=1 python benchmarks/evaluation_speed.py --json benchmarks/results/evaluation_speed.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from side_by_side import write_results

from llava_teamlora.bench.measuring import Quartiles, clock, wait
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction.batches import make_batches
from llava_teamlora.evaluation.runner import ModelAnswerer
from llava_teamlora.evaluation.types import Sample
from llava_teamlora.generation import Decoding
from llava_teamlora.generation.loading import load_quietly

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """Of one measurement.

    Attributes:
        model: folder.
        sizes: of batches; the first is what the others are compared with.
        questions: answered in every piece.
        max_new_tokens: longest answer.
        rounds: that count.
        device: to answer on.
    """

    model: str = "playground/tiny"
    sizes: tuple[int, ...] = (1, 4, 16, 64)
    questions: int = 128
    max_new_tokens: int = 16
    rounds: int = 9
    device: str = "cpu"


def questions(count: int) -> dict[str, list[Sample]]:
    """The first of easy-VQA as they are, and as many of pictures that all differ."""
    samples = EasyVqa().load()
    different: dict[Any, Sample] = {}
    for sample in samples:
        different.setdefault(sample.image, sample)
    return {"a picture each": list(different.values())[:count], "about ten a picture": samples[:count]}


def answer(model: ModelAnswerer, samples: Sequence[Sample], size: int, settings: Settings) -> float:
    """Answer all; questions a second (see ``bench/measuring.py``'s clock)."""
    device, decoding = torch.device(settings.device), Decoding(settings.max_new_tokens)
    start = clock(device)
    count = sum(map(len, model.answer(make_batches(samples, size), decoding)))
    wait(device)
    return count / (clock(device) - start)


def measure(model: ModelAnswerer, samples: Sequence[Sample], settings: Settings) -> dict[str, dict[str, Quartiles]]:
    """Rates, and ratios to the first size in the same round, after one round that does not count."""
    rates: dict[int, list[float]] = {size: [] for size in settings.sizes}
    for number in range(settings.rounds + 1):
        # Every other round backwards: what comes first is not always the same.
        for size in settings.sizes if number % 2 else reversed(settings.sizes):
            rate = answer(model, samples, size, settings)
            if number:
                rates[size].append(rate)
    first = rates[settings.sizes[0]]
    return {
        str(size): {
            "questions_per_second": Quartiles.of(found),
            "ratio": Quartiles.of([one / other for one, other in zip(found, first, strict=True)]),
        }
        for size, found in rates.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / Settings.model))
    parser.add_argument("--sizes", type=int, nargs="+", default=Settings.sizes)
    for name in ("questions", "max_new_tokens", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    settings = replace(Settings(), **{**arguments, "sizes": tuple(arguments["sizes"])})
    model = ModelAnswerer(load_quietly(settings.model, device=settings.device))
    found = {}
    for name, samples in questions(settings.questions).items():
        found[name] = measure(model, samples, settings)
        for size, figures in found[name].items():
            print(f"{name}, batch {size:>3}: {figures['questions_per_second']} questions/s, {figures['ratio']} x")
    if path is not None:
        shown = replace(settings, model=Path(settings.model).name)
        write_results(path, "benchmarks/evaluation_speed.py", shown, torch.device(settings.device), {"ways": found})


if __name__ == "__main__":
    main()
