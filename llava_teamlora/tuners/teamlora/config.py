"""TeamLoRA's configuration."""

from dataclasses import dataclass, field

from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.registration import add_peft_type
from llava_teamlora.tuners.routed.router import INTERACTION_INITS


@dataclass
class TeamLoraConfig(RoutedConfig):
    """Configuration of TeamLoRA: the fields of RoutedConfig and two for the interaction matrix M.

    Args:
        interaction_init: how M starts, with 1 on its diagonal: "uniform" draws the rest from U(0, 1/k),
            "literal" from U(0, 1), "identity" leaves zeros.
        train_interaction: False fixes M at the identity, that is, plain softmax routing without M's k * k
            parameters (the paper's ablation "collaboration only", equal to MoELoRA). It needs
            ``interaction_init="identity"``: a fixed random M would be neither the paper's method nor an
            ablation of it.

    Raises:
        ValueError: naming the field, its value and the remedy.
    """

    interaction_init: str = field(default="uniform", metadata={"help": "uniform, literal or identity."})
    train_interaction: bool = field(default=True, metadata={"help": "False fixes M at the identity."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type("TEAMLORA")
        if self.interaction_init not in INTERACTION_INITS:
            raise ValueError(
                f"interaction_init must be one of {', '.join(INTERACTION_INITS)}, got {self.interaction_init!r}"
            )
        if not isinstance(self.train_interaction, bool):
            raise ValueError(f"train_interaction must be True or False, got {self.train_interaction!r}")
        if not self.train_interaction and self.interaction_init != "identity":
            raise ValueError(
                f'train_interaction=False needs interaction_init="identity", got {self.interaction_init!r}: a '
                "matrix that is not trained can only be the identity (plain softmax routing)"
            )
