"""What the configurations of all routed methods share: experts, router and interaction matrix."""

from dataclasses import dataclass, field
from typing import Any

from llava_teamlora.tuners.low_rank.config import LowRankConfig, check_choice, check_count, check_flag, check_range
from llava_teamlora.tuners.routed.router import INTERACTION_INITS

IMPLS = ("auto", "linear", "reference")


@dataclass
class RoutedConfig(LowRankConfig):
    """The fields of LowRankConfig and those of experts, router and interaction matrix M.

    The rank `r` is that of one expert; dropout falls on the input of A, the router reads it without.

    Args:
        num_experts: k, the number of experts, >= 1.
        router_hidden: None for a linear router, else the width of an MLP router, >= 1.
        train_interaction: whether there is a matrix M to learn, omega = M phi. False fixes it at the identity, that
            is, plain softmax routing without M's k * k parameters; it needs ``interaction_init="identity"``, for a
            fixed random M would be neither the paper's method nor an ablation of it.
        interaction_init: how M starts, with 1 on its diagonal: "uniform" draws the rest from U(0, 1/k),
            "literal" from U(0, 1), "identity" leaves zeros.
        balance_loss_coef: >= 0; weight of the load-balance loss, added to the model's loss in training.
        router_z_loss_coef: >= 0; weight of the router z-loss, added to the model's loss in training.
        impl: what computes it, to equal results but for rounding: "auto", the fastest form that can run; "linear",
            custom autograd for each linear by itself; "reference", plain operations, each module called. Not saved.

    Raises:
        ValueError: naming the field, its value and the remedy.
    """

    num_experts: int = field(default=4, metadata={"help": "Number of experts, k."})
    router_hidden: int | None = field(default=None, metadata={"help": "Width of an MLP router."})
    interaction_init: str = field(default="identity", metadata={"help": "uniform, literal or identity."})
    train_interaction: bool = field(default=False, metadata={"help": "False fixes M at the identity."})
    balance_loss_coef: float = field(default=0.0, metadata={"help": "Weight of the load-balance loss."})
    router_z_loss_coef: float = field(default=0.0, metadata={"help": "Weight of the router z-loss."})
    impl: str = field(default="auto", metadata={"help": "auto, linear or reference; not saved."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_experts", self.num_experts, "the number of experts")
        if self.router_hidden is not None:
            check_count("router_hidden", self.router_hidden, "the width of an MLP router, or None for a linear one")
        for name in ("balance_loss_coef", "router_z_loss_coef"):
            check_range(name, getattr(self, name), "a number >= 0 (0 turns the loss off)", least=0.0)
        check_choice("interaction_init", self.interaction_init, INTERACTION_INITS)
        check_choice("impl", self.impl, IMPLS)
        check_flag("train_interaction", self.train_interaction)
        if not self.train_interaction and self.interaction_init != "identity":
            raise ValueError(
                f'train_interaction=False needs interaction_init="identity", got {self.interaction_init!r}: a '
                "matrix that is not trained can only be the identity (plain softmax routing)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields to save: all but what holds for this run alone."""
        fields = super().to_dict()
        del fields["impl"]
        return fields

    @property
    def uses_auxiliary_losses(self) -> bool:
        """Whether training adds a loss on the router."""
        return self.balance_loss_coef > 0 or self.router_z_loss_coef > 0

    def count_parameters(self, d_in: int, d_out: int) -> int:
        """Count A and B of every expert, the router, and M where it is learned."""
        k, r = self.num_experts, self.r
        return k * r * (d_in + d_out) + self.count_routing(d_in)

    def count_routing(self, d_in: int) -> int:
        """Count the router and, where it is learned, M."""
        k, hidden = self.num_experts, self.router_hidden
        router = d_in * k if hidden is None else (d_in + k) * hidden
        return router + (k * k if self.train_interaction else 0)
