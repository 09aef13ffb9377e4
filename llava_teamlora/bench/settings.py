"""What can be set of each bench, as frozen dataclasses that the command line's flags are made of. Imports no torch.

A field's metadata holds its flag's ``help``, its ``quick`` value (what ``--quick`` takes) and ``choices``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LINEAR_VARIANTS = (
    "base",
    "peft-lora",
    "fused-lora",
    "moelora-loop",
    "moelora-stacked",
    "hydralora-loop",
    "hydralora-batched",
    "teamlora-reference",
    "teamlora-linear",
)
MLP_VARIANTS = (*LINEAR_VARIANTS, "teamlora-mlp")
DECODE_VARIANTS = (*LINEAR_VARIANTS, "teamlora-packed")
OTHER_VARIANTS = ("moelora-linear", "moelora-mlp", "hydralora-linear", "hydralora-mlp")
ALL_VARIANTS = (*MLP_VARIANTS, "teamlora-packed", *OTHER_VARIANTS)
DTYPES = ("bf16", "fp32", "amp")
SIZES = ("7b", "small", "tiny")
"""Of a whole LLaVA: 7b has LLaVA-1.5-7B's shapes, small is for a CPU."""


def option(default: Any, what: str, quick: Any = None, choices: tuple[Any, ...] | None = None) -> Any:
    """Return a dataclass field that becomes a flag; a tuple takes several values."""
    return field(default=default, metadata={"help": what, "quick": quick, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What all benches share.

    Attributes:
        k: numbers of experts.
        r: rank of one expert.
        total_rank: rank of all experts together, instead of `r`.
        dropout: on A's input.
        dtype: "bf16" and "fp32" compute all in one; "amp" has float32 adapters on a bfloat16 base, under autocast.
        variants: ways to compute.
        over: the reference, which every ratio is over.
        rounds: that count.
        seed: of weights, inputs, and the order within the rounds.
        device: to compute on.
    """

    k: tuple[int, ...] = option((4,), "number of experts; several are measured in one run", quick=(2,))
    r: int = option(32, "rank of one expert", quick=4)
    total_rank: int | None = option(None, "rank of all experts together, whatever k: r = total_rank / k")
    dropout: float = option(0.0, "probability of dropout on the adapters' input")
    dtype: tuple[str, ...] = option(
        ("bf16", "fp32"), "bf16, fp32, or amp: float32 adapters under autocast", quick=("fp32",), choices=DTYPES
    )
    variants: tuple[str, ...] = option(LINEAR_VARIANTS, "what to compare", choices=ALL_VARIANTS)
    over: str = option("peft-lora", "the reference that ratios are over", choices=ALL_VARIANTS)
    rounds: int = option(21, "rounds that count, each way once in each, in random order", quick=3)
    seed: int = option(0, "of weights, inputs and order")
    device: str = option("cpu", "cpu (process CPU time on one thread) or cuda (events)")

    def rank(self, k: int) -> int:
        """Rank of one of k experts.

        Raises:
            ValueError: `total_rank` is no multiple of k.
        """
        if self.total_rank is None:
            return self.r
        if self.total_rank % k:
            raise ValueError(f"--total_rank {self.total_rank} cannot be shared by {k} experts")
        return self.total_rank // k

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class StepSettings(Settings):
    """Of ``bench step``: one linear.

    Attributes:
        d_in: its input's width.
        d_out: its output's width.
        tokens: rows of its input.
    """

    d_in: int = option(1024, "width of the input", quick=64)
    d_out: int = option(2752, "width of the output", quick=96)
    tokens: int = option(1024, "tokens in a step", quick=32)


@dataclass(frozen=True)
class MlpSettings(StepSettings):
    """Of ``bench mlp``: a SwiGLU MLP, d_in -> d_out -> d_in, with and without gradient checkpointing."""

    variants: tuple[str, ...] = option(MLP_VARIANTS, "what to compare", choices=ALL_VARIANTS)


@dataclass(frozen=True)
class DecodeSettings(StepSettings):
    """Of ``bench decode``: one token through a stack of MLPs, larger together than the last-level cache.

    Attributes:
        layers: MLPs in the stack.
        model: of this size, decoded whole instead of the stack; d_in, d_out and layers say nothing then.
        prompt: tokens that a whole model has read before.
        answer: tokens that it then decodes in one piece.
    """

    variants: tuple[str, ...] = option(DECODE_VARIANTS, "what to compare", choices=ALL_VARIANTS)
    dtype: tuple[str, ...] = option(("bf16",), "bf16, fp32 or amp", quick=("fp32",), choices=DTYPES)
    tokens: int = option(1, "tokens decoded at once: sequences in a batch")
    layers: int = option(12, "MLPs one after the other", quick=2)
    model: str | None = option(
        None, "decode a whole LLaVA of this size in a static cache, compiled on CUDA; best --over base", choices=SIZES
    )
    prompt: int = option(640, "with --model: tokens read before, not timed", quick=24)
    answer: int = option(32, "with --model: tokens decoded in a piece", quick=4)
    rounds: int = option(41, "rounds that count, each way once in each, in random order", quick=3)


@dataclass(frozen=True)
class TraceSettings(StepSettings):
    """Of ``bench trace``: LLaVA-1.5-7B's shapes, batch 16 x 700 tokens; nothing is computed."""

    variants: tuple[str, ...] = option(MLP_VARIANTS, "what to compare", choices=ALL_VARIANTS)
    dtype: tuple[str, ...] = option(("bf16",), "bf16, fp32 or amp", choices=DTYPES)
    d_in: int = option(4096, "width of the model", quick=64)
    d_out: int = option(11008, "width of the MLP", quick=96)
    tokens: int = option(11200, "tokens in a step", quick=32)
