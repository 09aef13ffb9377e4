"""MoSLoRA's configuration."""

from dataclasses import dataclass, field

from llava_teamlora.tuners.low_rank.config import LowRankConfig, check_choice

MIXER_INITS = ("kaiming", "orthogonal")


@dataclass
class MosLoraConfig(LowRankConfig):
    """Configuration of MoSLoRA: the fields of LowRankConfig and one for the mixer.

    Args:
        mixer_init: how the mixer W_AB starts: "kaiming" (uniform) or "orthogonal".

    Raises:
        ValueError: naming the field, its value and the remedy.
    """

    method = "moslora"

    mixer_init: str = field(default="kaiming", metadata={"help": "kaiming or orthogonal."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mixer_init", self.mixer_init, MIXER_INITS)

    def count_parameters(self, d_in: int, d_out: int) -> int:
        """Count A, B and the mixer."""
        return self.r * (d_in + d_out) + self.r**2
