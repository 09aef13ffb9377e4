"""What can be set of the benches of whole models. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from llava_teamlora.bench.settings import ALL_VARIANTS, DTYPES, SIZES, Settings, option

WHOLE_VARIANTS = (
    "peft-lora", "fused-lora", "moelora-loop", "moelora-stacked", "teamlora-reference", "teamlora-linear",
    "teamlora-mlp",
)  # fmt: skip


@dataclass(frozen=True)
class WholeSettings(Settings):
    """What the benches of whole models share: a randomly initialised LLaVA and a batch, a picture in each sample.

    Attributes:
        size: of the LLaVA.
        samples: in a batch.
        tokens: of each, its picture's among them.
    """

    variants: tuple[str, ...] = option(WHOLE_VARIANTS, "what to compare", choices=ALL_VARIANTS)
    dtype: tuple[str, ...] = option(
        ("amp",), "bf16, fp32, or amp: float32 adapters under autocast, as a training has", choices=DTYPES
    )
    size: str = option("small", "7b has LLaVA-1.5-7B's shapes, small is for a CPU", quick="tiny", choices=SIZES)
    samples: int = option(2, "samples in a batch", quick=2)
    tokens: int = option(256, "tokens of each, its picture's among them", quick=48)


@dataclass(frozen=True)
class TrainSettings(WholeSettings):
    """Of ``bench train``: whole training steps."""

    rounds: int = option(9, "rounds that count, each way once in each, in random order", quick=2)


@dataclass(frozen=True)
class MemorySettings(WholeSettings):
    """Of ``bench memory``: the peak of a step, estimated and measured."""

    device: str = option("cpu", "cpu or cuda; meta: estimate alone, of any size")
